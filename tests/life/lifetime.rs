//! A session ends at its maximum age.

use std::time::Duration;

use getty::{
    CloseReason, Closed, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, LifetimeLayer},
};
use tokio::{task::JoinHandle, time::sleep};
use tower::ServiceExt;

use crate::support::{Answer, echo, lines, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

async fn slow(request: Request<String>) -> Answer {
    sleep(3 * SECOND).await;
    echo(request).await
}

fn open(layer: LifetimeLayer) -> (stream::Peer, JoinHandle<Closed>) {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(slow);
    let connection = Connection::new(transport);
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    (peer, task)
}

#[tokio::test(start_paused = true)]
async fn the_end_is_graceful_and_its_age_counts_from_accept() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(LifetimeLayer::new(60 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(slow);
    let connection = Connection::new(transport);
    sleep(10 * SECOND).await; // in somebody's queue
    let task = tokio::spawn(stack.oneshot(connection));
    sleep(49 * SECOND).await;
    peer.send("in flight\nnot begun\n");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert_eq!(closed.lifetime.as_secs(), 62, "the handler could finish");
    assert_eq!(peer.output(), "in flight\n");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn activity_does_not_put_it_off() {
    let (peer, task) = open(LifetimeLayer::new(60 * SECOND));
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
async fn jitter_ends_sessions_one_by_one_and_none_too_late() {
    let layer = LifetimeLayer::new(1000 * SECOND).with_jitter(0.5);
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
async fn a_session_may_live_for_no_time_or_for_ever() {
    let (_peer, task) = open(LifetimeLayer::new(Duration::ZERO));
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert!(closed.lifetime <= Duration::from_millis(1));

    for endless in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let (peer, _task) = open(LifetimeLayer::new(endless).with_jitter(0.1));
        sleep(1_000_000 * SECOND).await;
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
    }
}
