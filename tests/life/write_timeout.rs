//! `WriteTimeoutLayer`: while bytes wait to be written, some must be written in time.

use std::time::Duration;

use getty::{
    CloseReason, Connection, ServiceBuilder, SessionLayer,
    hooks::HandleExt,
    layers::{CodecLayer, WriteTimeoutLayer},
};
use getty_test::{TestSession, stream};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{echo, idle, lines, soon},
};

fn open(layer: WriteTimeoutLayer) -> TestSession {
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new().with_write_timeout(7 * SECOND))
        .service_fn(echo);
    TestSession::stream(stack)
}

#[tokio::test(start_paused = true)]
async fn layer_replaces_the_timeout_of_the_session_layer() {
    for seconds in [3, 70] {
        let session = open(WriteTimeoutLayer::new(seconds * SECOND));
        session.stall();
        session.send("unread\n");
        sleep(SECOND).await;
        assert_eq!(
            session.handle().stalled_since(),
            Some(session.handle().opened_at())
        );
        let closed = session.closed().await;
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime, seconds * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_can_be_changed_in_an_open_session() {
    for (seconds, end) in [(3, 5), (70, 70)] {
        let session = open(WriteTimeoutLayer::new(8 * SECOND));
        session.stall();
        session.send("unread\n");
        sleep(5 * SECOND).await;
        assert!(session.handle().stalled_since().is_some());
        session.handle().set_write_timeout(Some(seconds * SECOND));
        let closed = session.closed().await;
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime.as_secs(), end);
    }
}

#[tokio::test(start_paused = true)]
async fn every_written_byte_restarts_the_timeout() {
    let session = open(WriteTimeoutLayer::new(3 * SECOND));
    session.stall();
    session.send("123456789\n");
    for second in 1..=5 {
        sleep(2 * SECOND).await;
        session.take(1);
        idle().await;
        let stalled = session.handle().stalled_since().unwrap() - session.handle().opened_at();
        assert_eq!(stalled.as_secs(), 2 * second);
    }
    assert_eq!(session.closed().await.lifetime.as_secs(), 13);
}

#[tokio::test(start_paused = true)]
async fn timeout_does_not_run_while_no_bytes_wait() {
    let session = open(WriteTimeoutLayer::new(3 * SECOND));
    for _ in 0..3 {
        session.send("read\n");
        sleep(1000 * SECOND).await;
        assert_eq!(session.handle().stalled_since(), None);
    }
    assert!(!session.handle().is_closing());
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_a_peer_may_read_arbitrarily_late() {
    for layer in [
        WriteTimeoutLayer::disabled(),
        WriteTimeoutLayer::new(Duration::MAX),
    ] {
        let session = open(layer);
        session.stall();
        session.send("unread\n");
        sleep(100_000 * SECOND).await;
        assert!(!session.handle().is_closing());
        session.take_all();
        assert_eq!(soon(session.line()).await, "unread");
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
