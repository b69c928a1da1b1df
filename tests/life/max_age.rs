//! `MaxAgeLayer`: a session closes at its maximum age.

use std::time::Duration;

use getty::{
    CloseReason, Closed, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, MaxAgeLayer},
};
use getty_test::{Peer, stream};
use tokio::{task::JoinHandle, time::sleep};
use tower::ServiceExt;

use crate::{
    kit::{SECOND, run_session},
    support::{Answer, echo, lines, soon},
};

async fn slow(request: Request<String>) -> Answer {
    sleep(3 * SECOND).await;
    echo(request).await
}

fn open(layer: MaxAgeLayer) -> (Peer, JoinHandle<Closed>) {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(slow);
    let (_, task) = run_session(transport, stack);
    (peer, task)
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
    let (peer, task) = open(MaxAgeLayer::new(60 * SECOND));
    let busy = async {
        loop {
            peer.send("hello\n");
            sleep(5 * SECOND).await;
        }
    };
    let closed = tokio::select! {
        closed = soon(task) => closed.unwrap(),
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
    for (_peer, task) in sessions {
        ages.push(soon(task).await.unwrap().lifetime.as_millis());
    }
    assert!(ages.iter().all(|age| (500_000..=1_000_000).contains(age)));
    ages.sort_unstable();
    ages.dedup();
    assert!(ages.len() > 90, "only {} different ages", ages.len());
}

#[tokio::test(start_paused = true)]
async fn zero_age_closes_at_once_and_the_maximum_never() {
    let (_peer, task) = open(MaxAgeLayer::new(Duration::ZERO));
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert!(closed.lifetime <= Duration::from_millis(1));

    for maximum in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let (peer, _task) = open(MaxAgeLayer::new(maximum).with_jitter(0.1));
        sleep(1_000_000 * SECOND).await;
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
    }
}
