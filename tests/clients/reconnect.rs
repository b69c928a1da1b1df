//! Reconnecting: times of dials, length of pauses, and giving up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Pipeline, ServiceBuilder,
    client::{Backoff, Client, ClientState, Decision, Ended, Failure, NoSession},
    layers::{HeartbeatLayer, IdleTimeoutLayer},
    service_fn,
};
use getty_test::Log;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{Notify, mpsc},
    time::Instant,
};
use tracing::Level;

use crate::support::{
    Host, echo, forwarding_client, idle, ignoring_client, ms, soon, tasks, without_jitter,
};

/// Returns a server's stack that closes each connection at once.
fn closing_at_once() -> impl Pipeline<DuplexStream> + Clone {
    service_fn(|connection: Connection<DuplexStream>| async move {
        drop(connection);
        Err::<getty::Closed, BoxError>("go away".into())
    })
}

#[tokio::test(start_paused = true)]
async fn session_is_replaced_after_every_kind_of_close() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (sender, mut received) = mpsc::unbounded_channel();
    let client = without_jitter().connect(host.connector(), (), move |link| {
        forwarding_client(link, sender.clone())
    });
    for n in 0..20 {
        let session = soon(client.session()).await.unwrap();
        assert_eq!(session.is_open(), !session.is_closing());
        soon(session.send(format!("{n}"))).await.unwrap();
        assert_eq!(soon(received.recv()).await, Some(format!("{n}")));
        session.close_with(match n % 4 {
            0 => CloseReason::Local,
            1 => CloseReason::HeartbeatMissed,
            2 => CloseReason::IdleTimeout,
            _ => CloseReason::Panicked,
        });
    }
    assert_eq!(host.most_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn client_reconnects_after_an_orderly_close_by_the_peer() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    let first = soon(client.session()).await.unwrap();
    drop(server);
    assert_eq!(soon(first.closed()).await.reason, CloseReason::PeerClosed);
    let _server = host.serve(echo());
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
}

#[tokio::test(start_paused = true)]
async fn dials_of_a_stopped_server_follow_the_backoff() {
    let host = Host::default();
    let start = Instant::now();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let dials = host.dials_since(start);
    let pauses: Vec<_> = dials.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(
        pauses[..9],
        [300, 600, 1200, 2400, 4800, 9600, 19200, 30000, 30000].map(ms)
    );
    match client.state() {
        ClientState::Waiting(until) => {
            assert_eq!(until - start, *dials.last().unwrap() + ms(30000));
        }
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_each_pause_within_its_bound() {
    for seed in 0..20 {
        let host = Host::default();
        let start = Instant::now();
        let backoff = Backoff::default().with_seed(seed);
        let _client =
            Client::builder()
                .with_backoff(backoff)
                .connect(host.connector(), (), ignoring_client);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let dials = host.dials_since(start);
        assert!(dials.len() > 20);
        let expected = backoff.pauses();
        for (two, pause) in dials.windows(2).zip(expected) {
            // tokio's timers have a resolution of a millisecond.
            let late = (two[1] - two[0]).checked_sub(pause).expect("too early");
            assert!(late <= ms(2), "{late:?} late");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_while_the_server_accepts_and_closes_at_once() {
    let host = Host::default();
    let _server = host.serve(closing_at_once());
    let start = Instant::now();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // 8 pauses up to 30 s take a minute in total. Then there is one dial every 30 s.
    let dials = host.dials_since(start).len();
    assert!((120..=128).contains(&dials), "{dials}");
    assert!(!client.is_open());
}

#[tokio::test(start_paused = true)]
async fn session_that_stays_open_resets_the_backoff() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    for (open_for, pause) in [(ms(4900), ms(9600)), (ms(5000), ms(300))] {
        // Five dials are refused. The next pause is 4.8 s.
        let start = Instant::now();
        while host.dials_since(start).len() < 5 {
            idle().await;
        }
        let server = host.serve(echo());
        let session = soon(client.session()).await.unwrap();
        tokio::time::sleep(open_for).await;
        drop(server);
        soon(session.closed()).await;
        let closed = Instant::now();
        let server = host.serve(echo());
        let session = soon(client.session()).await.unwrap();
        let paused = closed.elapsed();
        assert!(
            paused >= pause - ms(1) && paused <= pause + ms(2),
            "{paused:?}"
        );
        // This session resets the backoff for the next round.
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(server);
        soon(session.closed()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn number_of_consecutive_attempts_can_be_limited() {
    let host = Host::default();
    let client =
        without_jitter()
            .with_max_attempts(4)
            .connect(host.connector(), (), ignoring_client);
    let Err(NoSession::Failed(failure)) = soon(client.session()).await else {
        panic!("no server listens");
    };
    assert_eq!(host.dials(), 4);
    match &failure {
        Failure::Attempts { attempts: 4, last } => {
            let Ended::Open(getty::OpenError::Connect(source)) = &**last else {
                panic!("{last}");
            };
            assert!(source.is::<std::io::Error>());
        }
        other => panic!("{other}"),
    }
    assert!(matches!(client.state(), ClientState::Failed(_)));
    soon(client.stopped()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(host.dials(), 4, "no dial exceeds the limit");
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn client_that_gives_up_does_not_log_that_it_continues() {
    let log = Log::capture();
    let host = Host::default();
    let client =
        without_jitter()
            .with_max_attempts(3)
            .connect(host.connector(), (), ignoring_client);
    soon(client.stopped()).await;
    assert_eq!(host.dials(), 3);
    let events = log.events();
    let continues = "client has no session and continues to try";
    assert!(events.iter().all(|event| event.message() != continues));
}

#[tokio::test(start_paused = true)]
async fn third_failed_attempt_of_an_outage_is_a_warning_with_its_cause() {
    let log = Log::capture();
    let warnings = || {
        let lines = log.events();
        let warned = lines.into_iter().filter(|line| line.level == Level::WARN);
        warned.collect::<Vec<_>>()
    };
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    for outage in 1..=2 {
        let before = host.dials();
        while host.dials() < before + 8 {
            tokio::time::sleep(ms(100)).await;
        }
        let warnings = warnings();
        assert_eq!(warnings.len(), outage);
        let last = &warnings[outage - 1];
        assert_eq!(last.message(), "client has no session and continues to try");
        assert_eq!(last.field("failed_attempts"), "3");
        assert!(
            last.field("error").contains("connecting failed"),
            "{last:?}"
        );
        let server = host.serve(echo());
        let session = soon(client.session()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(server);
        soon(session.closed()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn short_sessions_count_as_attempts_and_a_long_one_resets_the_count() {
    let host = Host::default();
    let server = host.serve(echo());
    let client =
        without_jitter()
            .with_max_attempts(3)
            .connect(host.connector(), (), ignoring_client);
    let session = soon(client.session()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(server);
    soon(session.closed()).await;
    let _server = host.serve(closing_at_once());
    soon(client.stopped()).await;
    assert_eq!(host.dials(), 1 + 3);
    let ClientState::Failed(Failure::Attempts { last, .. }) = client.state() else {
        panic!("the client has failed");
    };
    assert!(matches!(&*last, Ended::Closed(_)), "{last}");
}

#[tokio::test(start_paused = true)]
async fn retry_policy_receives_the_cause_and_may_stop_the_client() {
    let host = Host::default();
    let server = host.serve(echo());
    let (sender, mut causes) = mpsc::unbounded_channel();
    let client = without_jitter()
        .with_retry_policy(move |ended| {
            sender.send(ended.to_string()).unwrap();
            match ended {
                Ended::Closed(closed) if closed.reason == CloseReason::IdleTimeout => {
                    Decision::Stop
                }
                _ => Decision::Retry,
            }
        })
        .connect(host.connector(), (), ignoring_client);
    soon(client.session()).await.unwrap();
    drop(server);
    assert_eq!(
        soon(causes.recv()).await.unwrap(),
        "the session ended: closed by the peer"
    );
    assert_eq!(soon(causes.recv()).await.unwrap(), "connecting failed");
    let _server = host.serve(echo());
    let session = soon(client.session()).await.unwrap();
    session.close_with(CloseReason::IdleTimeout);
    soon(client.stopped()).await;
    match client.state() {
        ClientState::Failed(failure @ Failure::Stopped(_)) => {
            let source = std::error::Error::source(&failure).unwrap();
            assert_eq!(source.to_string(), "the session ended: idle for too long");
        }
        state => panic!("{state}"),
    }
}

#[tokio::test(start_paused = true)]
async fn unresponsive_session_is_closed_by_a_layer_and_replaced() {
    let host = Host::default();
    // The server accepts and never sends anything.
    let mut listener = host.listen();
    let client = without_jitter().connect(host.connector(), (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Lines::new()))
            .layer(IdleTimeoutLayer::new(Duration::from_secs(25)))
            .layer(HeartbeatLayer::new(Duration::from_secs(10), |_| {
                "PING".to_owned()
            }))
            .layer(link)
            .layer(getty::SessionLayer::new())
            .service_fn(|_: getty::Request<String>| async { Ok::<_, BoxError>(None) })
    });
    let first = soon(client.session()).await.unwrap();
    let _accepted = soon(std::future::poll_fn(|cx| {
        getty::Listener::poll_accept(&mut listener, cx)
    }))
    .await
    .unwrap();
    soon(first.closed()).await;
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
}

#[tokio::test(start_paused = true)]
async fn stack_without_the_link_fails_without_a_retry() {
    let host = Host::default();
    let _server = host.serve(echo());
    let client: Client<String> =
        without_jitter().connect(host.connector(), (), |_| echo::<DuplexStream>());
    assert!(matches!(
        soon(client.session()).await,
        Err(NoSession::Failed(Failure::NoLink))
    ));
    soon(client.stopped()).await;
    assert_eq!((host.dials(), host.open()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn client_returns_within_the_backoff_after_each_of_fifty_restarts() {
    let host = Host::default();
    let backoff = Backoff::default().with_seed(11);
    let client = Client::builder()
        .with_sessions(8)
        .with_backoff(backoff)
        .connect(host.connector(), (), ignoring_client);
    let mut tasks_before = None;
    for _ in 0..50 {
        let server = host.serve(echo());
        while client.sessions().len() < 8 {
            idle().await;
        }
        // The backoff is reset. In one second without a server, dials are refused. The pauses are
        // at most 0.3, 0.3, 0.6 and 1.2 s.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let alive = tasks().await;
        assert_eq!(*tasks_before.get_or_insert(alive), alive);
        let dials = host.dials();
        let stopped = Instant::now();
        drop(server);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!client.is_open());
        let refused = host.dials() - dials;
        let server = host.serve(echo());
        while client.sessions().len() < 8 {
            idle().await;
        }
        let bound = stopped + ms(1000) + ms(300) * 2_u32.pow(u32::try_from(refused).unwrap());
        assert!(Instant::now() <= bound, "late, after {refused} refusals");
        assert_eq!(
            host.dials() - dials,
            refused + 8,
            "no dial to a running server fails"
        );
        tokio::time::sleep(Duration::from_secs(6)).await;
        drop(server);
        idle().await;
    }
    assert_eq!(host.most_open(), 8);
}

#[tokio::test(start_paused = true)]
async fn half_closed_session_is_replaced_while_its_handlers_still_run() {
    let host = Host::default();
    let mut listener = host.listen();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let client = without_jitter().connect(host.connector(), (), move |link| {
        let (sender, released) = (sender.clone(), Arc::clone(&released));
        ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Lines::new()))
            .layer(link)
            .layer(getty::SessionLayer::new())
            .service_fn(move |request: getty::Request<String>| {
                let (sender, released) = (sender.clone(), Arc::clone(&released));
                async move {
                    released.notified().await;
                    sender.send(request.into_message())?;
                    Ok::<_, BoxError>(None)
                }
            })
    });
    let first = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let mut accepted = soon(accept).await.unwrap();
    let stream = accepted.transport_mut();
    stream.write_all(b"one\ntwo\nthree\n").await.unwrap();
    stream.shutdown().await.unwrap();
    idle().await;
    let second = soon(client.session()).await.unwrap();
    assert_ne!(first.id(), second.id());
    assert!(!first.is_closing() && client.sessions().len() == 1);
    for line in ["one", "two", "three"] {
        release.notify_one();
        assert_eq!(soon(handled.recv()).await.unwrap(), line);
    }
    assert_eq!(soon(first.closed()).await.reason, CloseReason::PeerClosed);
    idle().await;
    assert_eq!(
        client.sessions()[0].id(),
        second.id(),
        "the second session stays"
    );
    assert_eq!(host.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn loss_of_the_last_session_resets_the_number_of_attempts() {
    let host = Host::default();
    let server = host.serve(echo());
    let first_is_open = AtomicBool::new(false);
    let client = without_jitter()
        .with_sessions(2)
        .with_max_attempts(3)
        .with_hook(move |_| {
            // Only the first session is accepted.
            let full = first_is_open.swap(true, SeqCst);
            async move { if full { Err("full") } else { Ok(()) } }
        })
        .connect(host.connector(), (), ignoring_client);
    let session = soon(client.session()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let dials = host.dials();
    drop(server);
    soon(session.closed()).await;
    soon(client.stopped()).await;
    assert_eq!(host.dials() - dials, 3);
}
