//! A session must open in time.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    CloseReason, Connection, ServiceBuilder, SessionLayer,
    layers::{CodecLayer, HandshakeTimeoutLayer, handshake_timeout::HandshakeTimedOut},
};
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;

use crate::support::{echo, idle, lines, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_session_that_opens_in_time_is_left_alone() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::default())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    sleep(9 * SECOND).await;
    let task = tokio::spawn(stack.oneshot(connection));
    sleep(1000 * SECOND).await;
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
    handle.close();
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waited_too_long_in_a_queue_is_not_begun_with() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::new(3 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    peer.send("hello\n");
    sleep(4 * SECOND).await;
    let error = soon(stack.oneshot(connection)).await.unwrap_err();
    assert!(error.is::<HandshakeTimedOut>());
    let closed = soon(handle.closed()).await;
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert!(closed.source.unwrap().is::<HandshakeTimedOut>());
    assert_eq!(peer.counts().reads, 0);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_waits_for_its_peer_is_cut_off_and_callbacks_run_once() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::default())
        .service_fn(|connection: Connection<stream::Stream>| async move {
            pending::<()>().await;
            drop(connection);
            Ok::<_, getty::BoxError>(())
        });
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let reasons: Arc<Mutex<Vec<_>>> = Arc::default();
    let seen = Arc::clone(&reasons);
    handle.add_close_callback("test", 0, move |closed| {
        seen.lock().unwrap().push(closed.reason.clone());
    });
    let begun = Instant::now();
    let task = tokio::spawn(stack.oneshot(connection));
    soon(handle.closed()).await;
    assert_eq!(begun.elapsed(), 10 * SECOND);
    assert!(peer.is_gone());
    let error = soon(task).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the session was not open within 10s");
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::HandshakeTimeout]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_held_is_not_open() {
    for (held, opens) in [(9, true), (11, false)] {
        let (transport, peer) = stream::pair();
        let stack = ServiceBuilder::new()
            .layer(HandshakeTimeoutLayer::default())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(echo);
        let connection = Connection::new(transport);
        let handle = connection.handle().clone();
        let hold = handle.hold();
        let task = tokio::spawn(stack.oneshot(connection));
        peer.send("hello\n");
        sleep(held * SECOND).await;
        drop(hold);
        idle().await;
        assert_eq!(handle.is_open(), opens);
        assert_eq!(peer.output(), if opens { "hello\n" } else { "" });
        handle.close();
        let reason = soon(handle.closed()).await.reason;
        assert_eq!(reason == CloseReason::HandshakeTimeout, !opens);
        assert_eq!(soon(task).await.unwrap().is_ok(), opens);
    }
}

#[tokio::test(start_paused = true)]
async fn no_time_admits_nobody_and_endless_time_everybody() {
    for (time, opens) in [(Duration::ZERO, false), (Duration::MAX, true)] {
        // between two ticks of the timer, as is usual
        advance(Duration::from_micros(300)).await;
        let (transport, peer) = stream::pair();
        let stack = ServiceBuilder::new()
            .layer(HandshakeTimeoutLayer::new(time))
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(echo);
        peer.finish();
        assert_eq!(
            soon(stack.oneshot(Connection::new(transport)))
                .await
                .is_ok(),
            opens
        );
    }
}
