use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, OpenError, Request, ServiceBuilder, Session, SessionLayer,
    client::{Client, Decision, Ended, Failure, NoSession, State},
    codec::Lines,
};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};

use crate::support::{Place, deaf, echo, even, idle, ms, soon, tasks};

#[derive(Clone)]
struct Login(mpsc::Sender<String>);

/// A client that logs in and waits for the answer.
fn logging_in(place: &Place) -> Client<String> {
    even()
        .with_hook(|session: Session<String>| async move {
            let (login, mut answer) = mpsc::channel(1);
            session.insert(Login(login));
            session.send("LOGIN".to_owned()).await?;
            match answer.recv().await.as_deref() {
                Some("LOGIN") => Ok(()),
                other => Err(BoxError::from(format!("{other:?}"))),
            }
        })
        .connect(place.connector(), (), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|request: Request<String>| async move {
                    if let Some(Login(login)) = request.session().remove::<Login>() {
                        login.send(request.into_message()).await?;
                    }
                    Ok::<Option<String>, BoxError>(None)
                })
        })
}

#[tokio::test(start_paused = true)]
async fn each_session_logs_in_before_it_is_offered() {
    let place = Place::default();
    let mut server = place.serve(echo());
    let client = logging_in(&place);
    for _ in 0..3 {
        let session = soon(client.session()).await.unwrap();
        assert_eq!(session.stats().messages_in, 1, "it is logged in");
        drop(server);
        soon(session.closed()).await;
        server = place.serve(echo());
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_run_in_the_order_given_and_not_after_one_that_failed() {
    let place = Place::default();
    let _server = place.serve(echo());
    let ran = Arc::new(Mutex::new(String::new()));
    let note = |name: char, works: bool| {
        let ran = Arc::clone(&ran);
        move |_| {
            ran.lock().unwrap().push(name);
            let result = if works { Ok(()) } else { Err("no such room") };
            async move {
                tokio::task::yield_now().await;
                result
            }
        }
    };
    let client = even()
        .with_hook(note('a', true))
        .with_hook(note('b', false))
        .with_hook(note('c', true))
        .with_max_attempts(2)
        .connect(place.connector(), (), deaf);
    let Err(NoSession::Failed(Failure::Attempts { last, .. })) = soon(client.session()).await
    else {
        panic!("hooks fail each time");
    };
    assert!(matches!(&*last, Ended::Hook(error) if error.to_string() == "no such room"));
    assert_eq!(*ran.lock().unwrap(), "abab");
    soon(client.stopped()).await;
    assert_eq!(place.open(), 0, "the sessions were closed");
}

#[tokio::test(start_paused = true)]
async fn hook_that_fails_is_a_failed_attempt_with_its_pause() {
    let place = Place::default();
    let _server = place.serve(echo());
    let begin = Instant::now();
    let _client =
        even()
            .with_hook(|_| async { Err("bad password") })
            .connect(place.connector(), (), deaf);
    tokio::time::sleep(ms(4000)).await;
    let dials = place.dials_since(begin);
    let pauses: Vec<_> = dials.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses, [300, 600, 1200].map(ms));
}

#[tokio::test(start_paused = true)]
async fn server_that_accepts_and_never_answers_ends_the_attempt_at_its_timeout() {
    let place = Place::default();
    let mut listener = place.listen();
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let connection: Connection<DuplexStream> =
                std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx))
                    .await
                    .unwrap();
            kept.lock().unwrap().push(connection);
        }
    });
    let begin = Instant::now();
    let client = logging_in(&place);
    tokio::time::sleep(ms(30_000)).await;
    let dials = place.dials_since(begin);
    assert_eq!(dials, [0, 10_300, 20_900].map(ms));
    assert_eq!(place.open(), 1, "those that came to nothing are closed");
    assert!(!client.is_open() && client.pick().is_none());
}

#[tokio::test(start_paused = true)]
async fn hook_is_dropped_when_its_session_closes() {
    let place = Place::default();
    let server = place.serve(echo());
    let running = Arc::new(());
    let held = Arc::clone(&running);
    let client = even()
        .with_max_attempts(1)
        .with_hook(move |_| {
            let held = Arc::clone(&held);
            async move {
                pending::<()>().await;
                drop(held);
                Ok::<_, BoxError>(())
            }
        })
        .connect(place.connector(), (), deaf);
    while place.open() == 0 {
        idle().await;
    }
    idle().await;
    assert_eq!(Arc::strong_count(&running), 3);
    drop(server);
    soon(client.stopped()).await;
    assert_eq!(Arc::strong_count(&running), 1);
    match client.state() {
        State::Failed(Failure::Attempts { last, .. }) => {
            assert!(matches!(&*last, Ended::Closed(_)), "{last}");
        }
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_closes_under_its_hook_is_replaced_without_waiting_for_the_hook() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even()
        .with_attempt_timeout(Duration::from_secs(3600))
        .with_hook(|_| pending::<Result<(), BoxError>>())
        .connect(place.connector(), (), deaf);
    idle().await;
    let begin = Instant::now();
    drop(server);
    let _server = place.serve(echo());
    tokio::time::sleep(ms(302)).await;
    assert_eq!(place.dials_since(begin).len(), 1);
    assert_eq!((place.dials(), client.sessions().len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_hook_fails_is_decided_upon_once() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (seen, mut ends) = mpsc::unbounded_channel();
    let _client = even()
        .with_hook(|_| async { Err("bad password") })
        .with_decision(move |ended| {
            seen.send(ended.to_string()).unwrap();
            Decision::Retry
        })
        .connect(place.connector(), (), deaf);
    tokio::time::sleep(ms(600)).await;
    for _ in 0..2 {
        assert_eq!(ends.try_recv().unwrap(), "a hook failed");
    }
    assert!(ends.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_applications_code_is_a_failure_and_no_lost_task() {
    let place = Place::default();
    let _server = place.serve(echo());
    let in_hook = |place: &Place| {
        even()
            .with_hook(|_| async {
                if true {
                    panic!("a bad hook");
                }
                Ok::<_, BoxError>(())
            })
            .connect(place.connector(), (), deaf)
    };
    let in_hooks_call = |place: &Place| {
        even()
            .with_hook(|_| -> std::future::Ready<Result<(), BoxError>> { panic!("a bad hook") })
            .connect(place.connector(), (), deaf)
    };
    let in_stack = |place: &Place| {
        even().connect(place.connector(), (), |link| {
            if true {
                panic!("a bad stack");
            }
            deaf(link)
        })
    };
    let in_decision = |place: &Place| {
        even()
            .with_hook(|session: Session<String>| async move {
                session.close();
                Err("so that there is something to decide")
            })
            .with_decision(|_| panic!("a bad decision"))
            .connect(place.connector(), (), deaf)
    };
    let in_connector = |_: &Place| {
        even().connect(
            getty::service_fn(|()| async {
                if true {
                    panic!("a bad connector");
                }
                Ok::<Connection<DuplexStream>, BoxError>(Connection::new(tokio::io::duplex(1).0))
            }),
            (),
            deaf,
        )
    };
    let before = tasks().await;
    for (client, message) in [
        (in_hook(&place), "a bad hook"),
        (in_hooks_call(&place), "a bad hook"),
        (in_stack(&place), "a bad stack"),
        (in_decision(&place), "a bad decision"),
        (in_connector(&place), "a bad connector"),
    ] {
        match soon(client.session()).await {
            Err(NoSession::Failed(Failure::Panicked(panic))) => {
                assert_eq!(panic.to_string(), message);
            }
            other => panic!("{message}: {other:?}"),
        }
        soon(client.stopped()).await;
        assert_eq!(tasks().await, before, "{message}");
        assert_eq!(place.open(), 0, "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn open_hook_inside_of_the_stack_fails_the_attempt_as_well() {
    let place = Place::default();
    let _server = place.serve(echo());
    let client = even()
        .with_max_attempts(2)
        .connect(place.connector(), (), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(getty::layers::OnOpenLayer::new(
                    |_: Session<String>| async { Err("not today") },
                ))
                .layer(SessionLayer::new())
                .service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None) })
        });
    let Err(NoSession::Failed(Failure::Attempts { attempts, last })) = soon(client.session()).await
    else {
        panic!("it is refused each time");
    };
    assert_eq!(attempts, 2);
    assert!(matches!(&*last, Ended::Open(OpenError::Open(_))), "{last}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(place.dials(), 2);
}
