//! `MaxAgeLayer`: a session closes at its maximum age.

use std::time::Duration;

use getty::{
    CloseReason, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, MaxAgeLayer},
};
use getty_test::{TestSession, stream};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, echo, lines, soon},
};

async fn slow(request: Request<String>) -> Answer {
    sleep(3 * SECOND).await;
    echo(request).await
}

fn open(layer: MaxAgeLayer) -> TestSession {
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(slow);
    TestSession::stream(stack)
}

#[tokio::test(start_paused = true)]
async fn close_is_graceful_and_the_age_counts_from_accept() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(MaxAgeLayer::new(60 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(slow);
    let connection = Connection::new(transport);
    // The connection waits in a queue before the stack is called.
    sleep(10 * SECOND).await;
    let task = tokio::spawn(stack.oneshot(connection));
    sleep(49 * SECOND).await;
    peer.send("in flight\nnot started\n");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert_eq!(closed.lifetime.as_secs(), 62, "the handler has finished");
    assert_eq!(peer.output(), "in flight\n");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn activity_does_not_postpone_the_close() {
    let session = open(MaxAgeLayer::new(60 * SECOND));
    let busy = async {
        loop {
            session.send("hello\n");
            sleep(5 * SECOND).await;
        }
    };
    let closed = tokio::select! {
        closed = session.closed() => closed,
        () = busy => unreachable!(),
    };
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert!((60..=63).contains(&closed.lifetime.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_closes_and_none_is_late() {
    let layer = MaxAgeLayer::new(1000 * SECOND).with_jitter(0.5);
    let sessions: Vec<_> = (0..100).map(|_| open(layer.clone())).collect();
    let mut ages = Vec::new();
    for session in sessions {
        ages.push(session.closed().await.lifetime.as_millis());
    }
    assert!(ages.iter().all(|age| (500_000..=1_000_000).contains(age)));
    ages.sort_unstable();
    ages.dedup();
    assert!(ages.len() > 90, "only {} different ages", ages.len());
}

#[tokio::test(start_paused = true)]
async fn zero_age_closes_at_once_and_the_maximum_never() {
    let session = open(MaxAgeLayer::new(Duration::ZERO));
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert!(closed.lifetime <= Duration::from_millis(1));

    for maximum in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let session = open(MaxAgeLayer::new(maximum).with_jitter(0.1));
        sleep(1_000_000 * SECOND).await;
        session.send("hello\n");
        assert_eq!(soon(session.line()).await, "hello");
    }
}
