//! `ReadTimeoutLayer`: a frame that has started must be complete in time.

use std::time::Duration;

use getty::{
    CloseReason, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, HeartbeatLayer, ReadTimeoutLayer},
};
use getty_test::{TestSession, stream};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, echo, idle, lines, soon},
};

/// Runs a session whose frames must be complete within `timeout`.
fn open(timeout: Duration) -> TestSession {
    let stack = ServiceBuilder::new()
        .layer(ReadTimeoutLayer::new(timeout))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(handle);
    TestSession::stream(stack)
}

/// Echoes the message. `sleep N` is echoed after N seconds.
async fn handle(request: Request<String>) -> Answer {
    if let Some(seconds) = request.message().strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn incomplete_frame_closes_the_session() {
    let session = open(10 * SECOND);
    sleep(25 * SECOND).await;
    session.send("hal");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_millis(), 35_000);
    assert!(session.is_shut());
}

/// A peer must not be able to keep a frame incomplete by sending slowly
/// (design.md: Why does a received byte not restart the read timeout?).
#[tokio::test(start_paused = true)]
async fn received_byte_does_not_restart_the_timeout() {
    let session = open(10 * SECOND);
    let send_slowly = async {
        loop {
            sleep(SECOND).await;
            session.send("a");
        }
    };
    let closed = tokio::select! {
        closed = session.closed() => closed,
        () = send_slowly => unreachable!(),
    };
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn timeout_counts_for_each_frame_separately() {
    let session = open(10 * SECOND);
    for _ in 0..10 {
        // Each send completes a frame and starts the next.
        session.send("st\nfir");
        sleep(9 * SECOND).await;
    }
    assert!(!session.handle().is_closing());
    let closed = session.closed().await;
    assert_eq!(closed.lifetime.as_secs(), 9 * 9 + 10);
}

#[tokio::test(start_paused = true)]
async fn peer_may_be_silent_between_frames() {
    let session = open(10 * SECOND);
    for _ in 0..5 {
        session.send("whole\n");
        sleep(1000 * SECOND).await;
    }
    assert!(!session.handle().is_closing());
    assert_eq!(session.handle().stats().messages_out, 5);
}

#[tokio::test(start_paused = true)]
async fn timeout_pauses_while_a_frame_waits_for_a_handler() {
    let session = open(10 * SECOND);
    session.send("sleep 100\nhal");
    sleep(105 * SECOND).await;
    assert!(!session.handle().is_closing());
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_secs(), 110);
}

#[tokio::test(start_paused = true)]
async fn timeout_restarts_for_a_frame_after_a_pong() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(ReadTimeoutLayer::new(10 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::new(1000 * SECOND, |_session| "PING".to_owned())
                .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let task = tokio::spawn(stack.oneshot(Connection::new(transport)));
    peer.send("PO");
    sleep(9 * SECOND).await;
    peer.send("NG\nhal");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_secs(), 19);
    assert_eq!(closed.stats.messages_in, 1, "only the pong was received");
}

#[tokio::test(start_paused = true)]
async fn zero_timeout_closes_on_an_incomplete_frame_and_the_maximum_never() {
    let session = open(Duration::ZERO);
    session.send("whole\n");
    sleep(SECOND).await;
    assert!(!session.handle().is_closing());
    session.send("hal");
    let closed = session.closed().await;
    assert_eq!(closed.lifetime.as_secs(), 1);

    for maximum in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let session = open(maximum);
        session.send("hal");
        sleep(1_000_000 * SECOND).await;
        session.send("f\n");
        idle().await;
        assert_eq!(session.output(), "half\n");
        assert!(!session.handle().is_closing());
    }
}
