//! `WriteTimeoutLayer`: while bytes wait to be written, some must be written in time.

use std::time::Duration;

use getty::{
    CloseReason, Closed, Connection, ConnectionHandle, ServiceBuilder, SessionLayer,
    hooks::HandleExt,
    layers::{CodecLayer, WriteTimeoutLayer},
};
use getty_test::{Peer, stream};
use tokio::{task::JoinHandle, time::sleep};
use tower::ServiceExt;

use crate::{
    kit::{SECOND, run_session},
    support::{echo, idle, lines, soon},
};

fn open(layer: WriteTimeoutLayer) -> (ConnectionHandle, Peer, JoinHandle<Closed>) {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new().with_write_timeout(7 * SECOND))
        .service_fn(echo);
    let (handle, task) = run_session(transport, stack);
    (handle, peer, task)
}

#[tokio::test(start_paused = true)]
async fn layer_replaces_the_timeout_of_the_session_layer() {
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
async fn timeout_can_be_changed_in_an_open_session() {
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
async fn every_written_byte_restarts_the_timeout() {
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
async fn timeout_does_not_run_while_no_bytes_wait() {
    let (handle, peer, _task) = open(WriteTimeoutLayer::new(3 * SECOND));
    for _ in 0..3 {
        peer.send("read\n");
        sleep(1000 * SECOND).await;
        assert_eq!(handle.stalled_since(), None);
    }
    assert!(!handle.is_closing());
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_a_peer_may_read_arbitrarily_late() {
    for layer in [
        WriteTimeoutLayer::disabled(),
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
async fn inner_layer_overrides_the_outer_one() {
    let (transport, peer) = stream();
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
