//! Clocks that stand still and jump forwards, as in a suspended machine or a blocked process.
//! Times are monotonic, so none goes backwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, Client, CloseReason, CodecLayer, Request, ServiceBuilder, Session, SessionLayer,
    client::Backoff,
    codec::Lines,
    layers::{HeartbeatLayer, IdleTimeoutLayer, IntervalLayer, MaxAgeLayer, ReadTimeoutLayer},
    net::memory,
    serve,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{advance, sleep},
};

use crate::app::{Side, soon};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Periodic work is not made up for, and none is late by more than the jump.
#[tokio::test(start_paused = true)]
async fn jump_of_an_hour_runs_periodic_work_once() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let side = Side::new();
    let (listener, connector) = memory(4096);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(HeartbeatLayer::new(10 * SECOND, |_: &Session<String>| {
            "beat".to_owned()
        }))
        .layer(IntervalLayer::new(SECOND, move |_: &Session<String>| {
            counted.fetch_add(1, SeqCst);
            Ok::<_, BoxError>(())
        }))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
    let stack = side.outside(getty::BoxPipeline::new(stack));
    tokio::spawn(async move { serve(listener, stack).await });
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    peer.write_all(b"hello\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert_eq!(peer.read(&mut buffer).await.unwrap(), 6);
    assert_eq!(runs.load(SeqCst), 0);
    advance(HOUR).await;
    sleep(SECOND / 2).await;
    assert_eq!(runs.load(SeqCst), 1);
    let length = peer.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"beat\n");
    // The rhythm continues from there.
    sleep(SECOND).await;
    assert_eq!(runs.load(SeqCst), 2);
    drop(peer);
    side.settle(&"jump").await;
}

/// A session is not closed for a silence in which nothing could be read: what arrived during
/// the jump is read before a timeout closes it.
#[tokio::test(start_paused = true)]
async fn bytes_that_arrived_during_a_jump_precede_the_timeouts() {
    let side = Side::new();
    let (listener, connector) = memory(4096);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(IdleTimeoutLayer::new(30 * SECOND))
        .layer(ReadTimeoutLayer::new(10 * SECOND))
        .layer(
            HeartbeatLayer::new(10 * SECOND, |_: &Session<String>| "beat".to_owned())
                .with_response_timeout(5 * SECOND),
        )
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
    let stack = side.outside(getty::BoxPipeline::new(stack));
    tokio::spawn(async move { serve(listener, stack).await });
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    let mut buffer = [0; 1024];
    for _ in 0..3 {
        // The process is stopped: the peer sends meanwhile, and the clock jumps.
        peer.write_all(b"hello\n").await.unwrap();
        advance(HOUR).await;
        let mut heard = Vec::new();
        while !heard.ends_with(b"hello\n") {
            let length = soon(peer.read(&mut buffer)).await.unwrap();
            assert!(length > 0, "closed: {:?}", side.reasons());
            heard.extend_from_slice(&buffer[..length]);
        }
    }
    assert!(side.records().is_empty());
    // Without input the silence counts.
    advance(HOUR).await;
    side.settle(&"silence").await;
    assert!(matches!(
        side.reasons()[..],
        [CloseReason::IdleTimeout | CloseReason::HeartbeatMissed]
    ));
}

/// A maximum age passes during the jump, and the close is a graceful one.
#[tokio::test(start_paused = true)]
async fn drain_deadline_begins_after_the_jump() {
    let side = Side::new();
    side.close_gates(false, true);
    let (listener, connector) = memory(4096);
    let stack = ServiceBuilder::new()
        .layer(MaxAgeLayer::new(60 * SECOND))
        .service(side.server());
    let stack = side.outside(stack);
    tokio::spawn(async move { serve(listener, stack).await });
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    peer.write_all(b"?work\n").await.unwrap();
    side.until(|side| side.working.load(SeqCst) == 1).await;
    advance(HOUR).await;
    sleep(SECOND).await;
    // The handler has the whole drain deadline, counted from the jump.
    assert!(side.records().is_empty());
    side.open_gates();
    side.settle(&"age").await;
    assert_eq!(side.reasons(), [CloseReason::LifetimeExpired]);
    let mut rest = String::new();
    soon(peer.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.ends_with("!work\n"), "{rest}");
}

/// The pause before a dial passes during the jump. One dial follows, not one for each pause.
#[tokio::test(start_paused = true)]
async fn client_dials_once_after_a_jump() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dials);
    let connector = getty::service_fn(move |()| {
        counted.fetch_add(1, SeqCst);
        async { Err::<getty::Connection<tokio::io::DuplexStream>, BoxError>("refused".into()) }
    });
    let side = Side::new();
    let builder = side.clone();
    let client: Client<String> = Client::builder()
        .with_backoff(Backoff::new(10 * SECOND, 10 * SECOND))
        .connect(connector, (), move |link| {
            builder.outside(builder.client(link))
        });
    sleep(SECOND / 100).await;
    assert_eq!(dials.load(SeqCst), 1);
    for nth in 2..5 {
        advance(HOUR).await;
        sleep(SECOND / 100).await;
        assert_eq!(dials.load(SeqCst), nth);
    }
    client.stop();
    client.stopped().await;
    side.settle(&"dials").await;
}
