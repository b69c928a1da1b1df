//! A frame that is begun must be completed in time.

use std::time::Duration;

use getty::{
    CloseReason, Closed, Connection, ConnectionHandle, Request, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, HeartbeatLayer, ReadTimeoutLayer},
};
use tokio::{task::JoinHandle, time::sleep};
use tower::ServiceExt;

use crate::support::{Answer, echo, idle, lines, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

/// Runs a session whose frames must be complete within `timeout`, and whose handlers sleep as long as they are told.
fn open(timeout: Duration) -> (ConnectionHandle, stream::Peer, JoinHandle<Closed>) {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(ReadTimeoutLayer::new(timeout))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(handle);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    (handle, peer, task)
}

async fn handle(request: Request<String>) -> Answer {
    if let Some(seconds) = request.message().strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_begun_and_not_completed_closes_the_session() {
    let (_handle, peer, task) = open(10 * SECOND);
    sleep(25 * SECOND).await;
    peer.send("hal");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_millis(), 35_000);
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_put_it_off() {
    let (_handle, peer, task) = open(10 * SECOND);
    let dribble = async {
        loop {
            sleep(SECOND).await;
            peer.send("a");
        }
    };
    let closed = tokio::select! {
        closed = soon(task) => closed.unwrap(),
        () = dribble => unreachable!(),
    };
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn each_frame_has_a_time_of_its_own() {
    let (handle, peer, task) = open(10 * SECOND);
    for _ in 0..10 {
        // each piece completes a frame and begins the next
        peer.send("st\nfir");
        sleep(9 * SECOND).await;
    }
    assert!(!handle.is_closing());
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 9 * 9 + 10);
}

#[tokio::test(start_paused = true)]
async fn a_peer_between_frames_may_be_silent() {
    let (handle, peer, _task) = open(10 * SECOND);
    for _ in 0..5 {
        peer.send("whole\n");
        sleep(1000 * SECOND).await;
    }
    assert!(!handle.is_closing());
    assert_eq!(handle.stats().messages_out, 5);
}

#[tokio::test(start_paused = true)]
async fn while_a_handler_works_a_frame_that_waits_behind_it_is_not_late() {
    let (handle, peer, task) = open(10 * SECOND);
    peer.send("sleep 100\nhal");
    sleep(105 * SECOND).await;
    assert!(!handle.is_closing());
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::ReadTimeout);
    assert_eq!(closed.lifetime.as_secs(), 110);
}

#[tokio::test(start_paused = true)]
async fn a_frame_behind_a_pong_has_a_time_of_its_own() {
    let (transport, peer) = stream::pair();
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
    assert_eq!(closed.stats.messages_in, 1, "the pong");
}

#[tokio::test(start_paused = true)]
async fn no_time_closes_on_a_frame_in_pieces_and_endless_time_never() {
    let (handle, peer, task) = open(Duration::ZERO);
    peer.send("whole\n");
    sleep(SECOND).await;
    assert!(!handle.is_closing());
    peer.send("hal");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 1);

    for endless in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let (handle, peer, _task) = open(endless);
        peer.send("hal");
        sleep(1_000_000 * SECOND).await;
        peer.send("f\n");
        idle().await;
        assert_eq!(peer.output(), "half\n");
        assert!(!handle.is_closing());
    }
}
