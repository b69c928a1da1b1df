//! Bytes that wait must move in time.

use std::time::Duration;

use getty::{
    CloseReason, Closed, Connection, ConnectionHandle, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, WriteTimeoutLayer},
};
use tokio::{task::JoinHandle, time::sleep};
use tower::ServiceExt;

use crate::support::{echo, idle, lines, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

fn open(layer: WriteTimeoutLayer) -> (ConnectionHandle, stream::Peer, JoinHandle<Closed>) {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new().with_write_timeout(7 * SECOND))
        .service_fn(echo);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    (handle, peer, task)
}

#[tokio::test(start_paused = true)]
async fn it_takes_the_place_of_the_session_loops_own() {
    for seconds in [3, 70] {
        let (handle, peer, task) = open(WriteTimeoutLayer::new(seconds * SECOND));
        peer.stall();
        peer.send("unread\n");
        sleep(SECOND).await;
        assert_eq!(handle.stalled_since(), Some(handle.opened_at()));
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime, seconds * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn it_can_be_set_while_the_session_runs() {
    for (seconds, end) in [(3, 5), (70, 70)] {
        let (handle, peer, task) = open(WriteTimeoutLayer::new(8 * SECOND));
        peer.stall();
        peer.send("unread\n");
        sleep(5 * SECOND).await;
        assert!(handle.stalled_since().is_some());
        handle.set_write_timeout(Some(seconds * SECOND));
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime.as_secs(), end);
    }
}

#[tokio::test(start_paused = true)]
async fn every_byte_that_moves_starts_it_anew() {
    let (handle, peer, task) = open(WriteTimeoutLayer::new(3 * SECOND));
    peer.stall();
    peer.send("123456789\n");
    for second in 1..=5 {
        sleep(2 * SECOND).await;
        peer.take(1);
        idle().await;
        let stalled = handle.stalled_since().unwrap() - handle.opened_at();
        assert_eq!(stalled.as_secs(), 2 * second);
    }
    assert_eq!(soon(task).await.unwrap().lifetime.as_secs(), 13);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_run_while_nothing_waits() {
    let (handle, peer, _task) = open(WriteTimeoutLayer::new(3 * SECOND));
    for _ in 0..3 {
        peer.send("read\n");
        sleep(1000 * SECOND).await;
        assert_eq!(handle.stalled_since(), None);
    }
    assert!(!handle.is_closing());
}

#[tokio::test(start_paused = true)]
async fn without_one_a_peer_may_take_as_long_as_it_likes() {
    for layer in [
        WriteTimeoutLayer::never(),
        WriteTimeoutLayer::new(Duration::MAX),
    ] {
        let (handle, peer, _task) = open(layer);
        peer.stall();
        peer.send("unread\n");
        sleep(100_000 * SECOND).await;
        assert!(!handle.is_closing());
        peer.take_all();
        assert_eq!(soon(peer.line()).await, "unread");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_the_inner_one_counts() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(WriteTimeoutLayer::new(SECOND))
        .layer(WriteTimeoutLayer::new(4 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    peer.stall();
    peer.send("unread\n");
    let closed = soon(stack.oneshot(Connection::new(transport))).await;
    assert_eq!(closed.unwrap().lifetime, 4 * SECOND);
}
