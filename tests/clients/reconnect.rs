use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Pipeline, ServiceBuilder,
    client::{Backoff, Client, Decision, Ended, Failure, NoSession, State},
    layers::{HeartbeatLayer, IdleTimeoutLayer},
    service_fn,
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::support::{Place, deaf, echo, even, idle, listening, ms, soon, tasks};

/// Closes each connection at once.
fn slamming() -> impl Pipeline<DuplexStream> + Clone {
    service_fn(|connection: Connection<DuplexStream>| async move {
        drop(connection);
        Err::<getty::Closed, BoxError>("go away".into())
    })
}

#[tokio::test(start_paused = true)]
async fn session_is_replaced_after_every_kind_of_end() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (got, mut answers) = mpsc::unbounded_channel();
    let client = even().connect(place.connector(), (), move |link| {
        listening(link, got.clone())
    });
    for n in 0..20 {
        let session = soon(client.session()).await.unwrap();
        assert_eq!(session.is_open(), !session.is_closing());
        soon(session.send(format!("{n}"))).await.unwrap();
        assert_eq!(soon(answers.recv()).await, Some(format!("{n}")));
        session.close_with(match n % 4 {
            0 => CloseReason::Local,
            1 => CloseReason::HeartbeatMissed,
            2 => CloseReason::IdleTimeout,
            _ => CloseReason::Panicked,
        });
    }
    assert_eq!(place.most_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn orderly_end_by_the_peer_is_no_reason_to_stay_away() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even().connect(place.connector(), (), deaf);
    let first = soon(client.session()).await.unwrap();
    drop(server);
    assert_eq!(soon(first.closed()).await.reason, CloseReason::PeerClosed);
    let _server = place.serve(echo());
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
}

#[tokio::test(start_paused = true)]
async fn dials_of_a_server_that_is_away_are_spaced_as_the_policy_says() {
    let place = Place::default();
    let begin = Instant::now();
    let client = even().connect(place.connector(), (), deaf);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let dials = place.dials_since(begin);
    let pauses: Vec<_> = dials.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(
        pauses[..9],
        [300, 600, 1200, 2400, 4800, 9600, 19200, 30000, 30000].map(ms)
    );
    match client.state() {
        State::Waiting(until) => assert_eq!(until - begin, *dials.last().unwrap() + ms(30000)),
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_each_pause_within_its_bound() {
    for seed in 0..20 {
        let place = Place::default();
        let begin = Instant::now();
        let backoff = Backoff::default().with_seed(seed);
        let _client = Client::builder()
            .with_backoff(backoff)
            .connect(place.connector(), (), deaf);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let dials = place.dials_since(begin);
        assert!(dials.len() > 20);
        let expected = backoff.pauses();
        for (two, pause) in dials.windows(2).zip(expected) {
            // tokio's timers count in milliseconds
            let late = (two[1] - two[0]).checked_sub(pause).expect("too early");
            assert!(late <= ms(2), "{late:?} late");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_accepts_and_closes_at_once_is_dialled_ever_less_often() {
    let place = Place::default();
    let _server = place.serve(slamming());
    let begin = Instant::now();
    let client = even().connect(place.connector(), (), deaf);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // 8 pauses up to 30 s, of a minute in all, then one each 30 s
    let dials = place.dials_since(begin).len();
    assert!((120..=128).contains(&dials), "{dials}");
    assert!(!client.is_open());
}

#[tokio::test(start_paused = true)]
async fn session_that_was_open_for_a_while_puts_the_pauses_back() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    for (lasts, pause) in [(ms(4900), ms(9600)), (ms(5000), ms(300))] {
        // five dials are refused, after which the pause is of 4.8 s
        let begin = Instant::now();
        while place.dials_since(begin).len() < 5 {
            idle().await;
        }
        let server = place.serve(echo());
        let session = soon(client.session()).await.unwrap();
        tokio::time::sleep(lasts).await;
        drop(server);
        soon(session.closed()).await;
        let closed = Instant::now();
        let server = place.serve(echo());
        let session = soon(client.session()).await.unwrap();
        let paused = closed.elapsed();
        assert!(
            paused >= pause - ms(1) && paused <= pause + ms(2),
            "{paused:?}"
        );
        // and begin anew
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(server);
        soon(session.closed()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_in_a_row_can_be_bounded() {
    let place = Place::default();
    let client = even()
        .with_max_attempts(4)
        .connect(place.connector(), (), deaf);
    let Err(NoSession::Failed(why)) = soon(client.session()).await else {
        panic!("there is nobody");
    };
    assert_eq!(place.dials(), 4);
    match &why {
        Failure::Attempts { attempts: 4, last } => {
            let Ended::Open(getty::OpenError::Connect(source)) = &**last else {
                panic!("{last}");
            };
            assert!(source.is::<std::io::Error>());
        }
        other => panic!("{other}"),
    }
    assert!(matches!(client.state(), State::Failed(_)));
    soon(client.stopped()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(place.dials(), 4, "it does not dial past its cap");
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_at_once_count_as_attempts_and_a_settled_one_begins_anew() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even()
        .with_max_attempts(3)
        .connect(place.connector(), (), deaf);
    let session = soon(client.session()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(server);
    soon(session.closed()).await;
    let _server = place.serve(slamming());
    soon(client.stopped()).await;
    assert_eq!(place.dials(), 1 + 3);
    let State::Failed(Failure::Attempts { last, .. }) = client.state() else {
        panic!("it has given up");
    };
    assert!(matches!(&*last, Ended::Closed(_)), "{last}");
}

#[tokio::test(start_paused = true)]
async fn decision_sees_how_it_ended_and_may_stop() {
    let place = Place::default();
    let server = place.serve(echo());
    let (seen, mut ends) = mpsc::unbounded_channel();
    let client = even()
        .with_decision(move |ended| {
            seen.send(ended.to_string()).unwrap();
            match ended {
                Ended::Closed(closed) if closed.reason == CloseReason::IdleTimeout => {
                    Decision::Stop
                }
                _ => Decision::Retry,
            }
        })
        .connect(place.connector(), (), deaf);
    soon(client.session()).await.unwrap();
    drop(server);
    assert_eq!(
        soon(ends.recv()).await.unwrap(),
        "the session ended: closed by the peer"
    );
    assert_eq!(soon(ends.recv()).await.unwrap(), "connecting failed");
    let _server = place.serve(echo());
    let session = soon(client.session()).await.unwrap();
    session.close_with(CloseReason::IdleTimeout);
    soon(client.stopped()).await;
    match client.state() {
        State::Failed(why @ Failure::Decided(_)) => {
            let source = std::error::Error::source(&why).unwrap();
            assert_eq!(source.to_string(), "the session ended: idle for too long");
        }
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn half_dead_session_is_noticed_by_the_stacks_layers_and_replaced() {
    let place = Place::default();
    // accepts, and never says a word
    let mut listener = place.listen();
    let client = even().connect(place.connector(), (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Lines::new()))
            .layer(IdleTimeoutLayer::read(Duration::from_secs(25)))
            .layer(HeartbeatLayer::new(Duration::from_secs(10), |_| {
                "PING".to_owned()
            }))
            .layer(link)
            .layer(getty::SessionLayer::new())
            .service_fn(|_: getty::Request<String>| async { Ok::<_, BoxError>(None) })
    });
    let first = soon(client.session()).await.unwrap();
    let _mute = soon(std::future::poll_fn(|cx| {
        getty::Listener::poll_accept(&mut listener, cx)
    }))
    .await
    .unwrap();
    soon(first.closed()).await;
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
}

#[tokio::test(start_paused = true)]
async fn stack_without_the_link_is_a_failure_that_no_retry_would_mend() {
    let place = Place::default();
    let _server = place.serve(echo());
    let client: Client<String> = even().connect(place.connector(), (), |_| echo::<DuplexStream>());
    assert!(matches!(
        soon(client.session()).await,
        Err(NoSession::Failed(Failure::NoLink))
    ));
    soon(client.stopped()).await;
    assert_eq!((place.dials(), place.open()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn fifty_restarts_bring_the_session_back_within_the_policys_bound_each_time() {
    let place = Place::default();
    let backoff = Backoff::default().with_seed(11);
    let client = Client::builder()
        .with_sessions(8)
        .with_backoff(backoff)
        .connect(place.connector(), (), deaf);
    let mut tasks_before = None;
    for _ in 0..50 {
        let server = place.serve(echo());
        while client.sessions().len() < 8 {
            idle().await;
        }
        // away for a second: it was settled, so that dials are refused after at most 0.3, 0.3, 0.6 and 1.2 s
        tokio::time::sleep(Duration::from_secs(6)).await;
        let alive = tasks().await;
        assert_eq!(*tasks_before.get_or_insert(alive), alive);
        let dials = place.dials();
        let gone = Instant::now();
        drop(server);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!client.is_open());
        let refused = place.dials() - dials;
        let server = place.serve(echo());
        while client.sessions().len() < 8 {
            idle().await;
        }
        let bound = gone + ms(1000) + ms(300) * 2_u32.pow(u32::try_from(refused).unwrap());
        assert!(Instant::now() <= bound, "late, after {refused} refusals");
        assert_eq!(place.dials() - dials, refused + 8, "no dial was in vain");
        tokio::time::sleep(Duration::from_secs(6)).await;
        drop(server);
        idle().await;
    }
    assert_eq!(place.most_open(), 8);
}

#[tokio::test(start_paused = true)]
async fn peer_that_has_ended_is_replaced_while_handlers_still_work_on_what_it_sent() {
    let place = Place::default();
    let mut listener = place.listen();
    let (got, mut heard) = mpsc::unbounded_channel();
    let slow = Arc::new(Notify::new());
    let gate = Arc::clone(&slow);
    let client = even().connect(place.connector(), (), move |link| {
        let (got, gate) = (got.clone(), Arc::clone(&gate));
        ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Lines::new()))
            .layer(link)
            .layer(getty::SessionLayer::new())
            .service_fn(move |request: getty::Request<String>| {
                let (got, gate) = (got.clone(), Arc::clone(&gate));
                async move {
                    gate.notified().await;
                    got.send(request.into_message())?;
                    Ok::<_, BoxError>(None)
                }
            })
    });
    let first = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let mut accepted = soon(accept).await.unwrap();
    let farewell = accepted.transport_mut();
    farewell.write_all(b"one\ntwo\nthree\n").await.unwrap();
    farewell.shutdown().await.unwrap();
    idle().await;
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
    assert!(!first.is_closing() && client.sessions().len() == 1);
    for line in ["one", "two", "three"] {
        slow.notify_one();
        assert_eq!(soon(heard.recv()).await.unwrap(), line);
    }
    assert_eq!(soon(first.closed()).await.reason, CloseReason::PeerClosed);
    idle().await;
    assert_eq!(client.sessions()[0].id(), second.id(), "that was no loss");
    assert_eq!(place.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn last_session_of_a_pool_that_ends_leaves_all_attempts_to_those_that_follow() {
    let place = Place::default();
    let server = place.serve(echo());
    let let_in = AtomicBool::new(false);
    let client = even()
        .with_sessions(2)
        .with_max_attempts(3)
        .with_hook(move |_| {
            // one and no other
            let full = let_in.swap(true, SeqCst);
            async move { if full { Err("full") } else { Ok(()) } }
        })
        .connect(place.connector(), (), deaf);
    let session = soon(client.session()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let dials = place.dials();
    drop(server);
    soon(session.closed()).await;
    soon(client.stopped()).await;
    assert_eq!(place.dials() - dials, 3);
}
