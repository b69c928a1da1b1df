//! Hooks: they prepare each session before the client uses it.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, OpenError, Request, ServiceBuilder, Session, SessionLayer,
    client::{Client, ClientState, Decision, Ended, Failure, NoSession},
    codec::Lines,
};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};

use crate::support::{Host, echo, idle, ignoring_client, ms, soon, tasks, without_jitter};

/// Attribute of a session: the sender for the response to `LOGIN`.
#[derive(Clone)]
struct Login(mpsc::Sender<String>);

/// Returns a client that sends `LOGIN` in each session and awaits the response.
fn login_client(host: &Host) -> Client<String> {
    without_jitter()
        .with_hook(|session: Session<String>| async move {
            let (login, mut response) = mpsc::channel(1);
            session.insert(Login(login));
            session.send("LOGIN".to_owned()).await?;
            match response.recv().await.as_deref() {
                Some("LOGIN") => Ok(()),
                other => Err(BoxError::from(format!("{other:?}"))),
            }
        })
        .connect(host.connector(), (), |link| {
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
async fn each_session_logs_in_before_it_is_used() {
    let host = Host::default();
    let mut server = host.serve(echo());
    let client = login_client(&host);
    for _ in 0..3 {
        let session = soon(client.session()).await.unwrap();
        assert_eq!(session.stats().messages_in, 1, "the login is complete");
        drop(server);
        soon(session.closed()).await;
        server = host.serve(echo());
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_run_in_order_and_stop_at_the_first_error() {
    let host = Host::default();
    let _server = host.serve(echo());
    let calls = Arc::new(Mutex::new(String::new()));
    let hook = |name: char, succeeds: bool| {
        let calls = Arc::clone(&calls);
        move |_| {
            calls.lock().unwrap().push(name);
            let result = if succeeds {
                Ok(())
            } else {
                Err("no such room")
            };
            async move {
                tokio::task::yield_now().await;
                result
            }
        }
    };
    let client = without_jitter()
        .with_hook(hook('a', true))
        .with_hook(hook('b', false))
        .with_hook(hook('c', true))
        .with_max_attempts(2)
        .connect(host.connector(), (), ignoring_client);
    let Err(NoSession::Failed(Failure::Attempts { last, .. })) = soon(client.session()).await
    else {
        panic!("the hooks fail each time");
    };
    assert!(matches!(&*last, Ended::Hook(error) if error.to_string() == "no such room"));
    assert_eq!(*calls.lock().unwrap(), "abab");
    soon(client.stopped()).await;
    assert_eq!(host.open(), 0, "the sessions were closed");
}

#[tokio::test(start_paused = true)]
async fn failed_hook_is_a_failed_attempt_and_is_followed_by_a_pause() {
    let host = Host::default();
    let _server = host.serve(echo());
    let start = Instant::now();
    let _client = without_jitter()
        .with_hook(|_| async { Err("bad password") })
        .connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(ms(4000)).await;
    let dials = host.dials_since(start);
    let pauses: Vec<_> = dials.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses, [300, 600, 1200].map(ms));
}

#[tokio::test(start_paused = true)]
async fn attempt_times_out_if_the_server_accepts_and_never_replies() {
    let host = Host::default();
    let mut listener = host.listen();
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
    let start = Instant::now();
    let client = login_client(&host);
    tokio::time::sleep(ms(30_000)).await;
    let dials = host.dials_since(start);
    assert_eq!(dials, [0, 10_300, 20_900].map(ms));
    assert_eq!(host.open(), 1, "connections of failed attempts are closed");
    assert!(!client.is_open() && client.pick().is_none());
}

#[tokio::test(start_paused = true)]
async fn hook_is_dropped_when_its_session_closes() {
    let host = Host::default();
    let server = host.serve(echo());
    let resource = Arc::new(());
    let captured = Arc::clone(&resource);
    let client = without_jitter()
        .with_max_attempts(1)
        .with_hook(move |_| {
            let captured = Arc::clone(&captured);
            async move {
                pending::<()>().await;
                drop(captured);
                Ok::<_, BoxError>(())
            }
        })
        .connect(host.connector(), (), ignoring_client);
    while host.open() == 0 {
        idle().await;
    }
    idle().await;
    assert_eq!(Arc::strong_count(&resource), 3);
    drop(server);
    soon(client.stopped()).await;
    assert_eq!(Arc::strong_count(&resource), 1);
    match client.state() {
        ClientState::Failed(Failure::Attempts { last, .. }) => {
            assert!(matches!(&*last, Ended::Closed(_)), "{last}");
        }
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_closes_during_its_hook_is_replaced_at_once() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter()
        .with_attempt_timeout(Duration::from_secs(3600))
        .with_hook(|_| pending::<Result<(), BoxError>>())
        .connect(host.connector(), (), ignoring_client);
    idle().await;
    let start = Instant::now();
    drop(server);
    let _server = host.serve(echo());
    tokio::time::sleep(ms(302)).await;
    assert_eq!(host.dials_since(start).len(), 1);
    assert_eq!((host.dials(), client.sessions().len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn retry_policy_is_called_once_for_a_failed_hook() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (sender, mut causes) = mpsc::unbounded_channel();
    let _client = without_jitter()
        .with_hook(|_| async { Err("bad password") })
        .with_retry_policy(move |ended| {
            sender.send(ended.to_string()).unwrap();
            Decision::Retry
        })
        .connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(ms(600)).await;
    for _ in 0..2 {
        assert_eq!(causes.try_recv().unwrap(), "a hook failed");
    }
    assert!(causes.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn panic_in_application_code_fails_the_client_and_leaks_no_task() {
    let host = Host::default();
    let _server = host.serve(echo());
    let in_hook = |host: &Host| {
        without_jitter()
            .with_hook(|_| async {
                if true {
                    panic!("a bad hook");
                }
                Ok::<_, BoxError>(())
            })
            .connect(host.connector(), (), ignoring_client)
    };
    let in_hook_call = |host: &Host| {
        without_jitter()
            .with_hook(|_| -> std::future::Ready<Result<(), BoxError>> { panic!("a bad hook") })
            .connect(host.connector(), (), ignoring_client)
    };
    let in_stack = |host: &Host| {
        without_jitter().connect(host.connector(), (), |link| {
            if true {
                panic!("a bad stack");
            }
            ignoring_client(link)
        })
    };
    let in_retry_policy = |host: &Host| {
        without_jitter()
            .with_hook(|session: Session<String>| async move {
                session.close();
                Err("the hook fails")
            })
            .with_retry_policy(|_| panic!("a bad retry policy"))
            .connect(host.connector(), (), ignoring_client)
    };
    let in_connector = |_: &Host| {
        without_jitter().connect(
            getty::service_fn(|()| async {
                if true {
                    panic!("a bad connector");
                }
                Ok::<Connection<DuplexStream>, BoxError>(Connection::new(tokio::io::duplex(1).0))
            }),
            (),
            ignoring_client,
        )
    };
    let before = tasks().await;
    for (client, message) in [
        (in_hook(&host), "a bad hook"),
        (in_hook_call(&host), "a bad hook"),
        (in_stack(&host), "a bad stack"),
        (in_retry_policy(&host), "a bad retry policy"),
        (in_connector(&host), "a bad connector"),
    ] {
        match soon(client.session()).await {
            Err(NoSession::Failed(Failure::Panicked(panic))) => {
                assert_eq!(panic.to_string(), message);
            }
            other => panic!("{message}: {other:?}"),
        }
        soon(client.stopped()).await;
        assert_eq!(tasks().await, before, "{message}");
        assert_eq!(host.open(), 0, "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_on_open_hook_of_the_stack_fails_the_attempt() {
    let host = Host::default();
    let _server = host.serve(echo());
    let client = without_jitter()
        .with_max_attempts(2)
        .connect(host.connector(), (), |link| {
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
        panic!("the connection is refused each time");
    };
    assert_eq!(attempts, 2);
    assert!(matches!(&*last, Ended::Open(OpenError::Open(_))), "{last}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.dials(), 2);
}
