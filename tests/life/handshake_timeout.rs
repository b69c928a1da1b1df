//! `HandshakeTimeoutLayer`: a session must open in time
//! (design.md: Why does `HandshakeTimeoutLayer` have a separate timer?).

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    CloseReason, Connection, ServiceBuilder, SessionLayer,
    hooks::HandleExt,
    layers::{CodecLayer, HandshakeTimeoutLayer, handshake_timeout::HandshakeTimedOut},
};
use getty_test::{Stream, stream};
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{echo, idle, lines, soon},
};

#[tokio::test(start_paused = true)]
async fn session_that_opens_in_time_is_not_closed() {
    let (transport, peer) = stream();
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
async fn connection_that_was_queued_for_too_long_is_refused_without_a_read() {
    let (transport, peer) = stream();
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
async fn handshake_that_waits_for_its_peer_is_interrupted_and_callbacks_run_once() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::default())
        .service_fn(|connection: Connection<Stream>| async move {
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
    let start = Instant::now();
    let task = tokio::spawn(stack.oneshot(connection));
    soon(handle.closed()).await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    assert!(peer.is_gone());
    let error = soon(task).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the session did not open within 10s");
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::HandshakeTimeout]);
}

#[tokio::test(start_paused = true)]
async fn session_whose_open_is_delayed_can_time_out() {
    for (delay, opens) in [(9, true), (11, false)] {
        let (transport, peer) = stream();
        let stack = ServiceBuilder::new()
            .layer(HandshakeTimeoutLayer::default())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(echo);
        let connection = Connection::new(transport);
        let handle = connection.handle().clone();
        let open_guard = handle.delay_open();
        let task = tokio::spawn(stack.oneshot(connection));
        peer.send("hello\n");
        sleep(delay * SECOND).await;
        drop(open_guard);
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
async fn zero_timeout_refuses_all_connections_and_the_maximum_refuses_none() {
    for (timeout, opens) in [(Duration::ZERO, false), (Duration::MAX, true)] {
        // A real program may start between two ticks of tokio's timer.
        advance(Duration::from_micros(300)).await;
        let (transport, peer) = stream();
        let stack = ServiceBuilder::new()
            .layer(HandshakeTimeoutLayer::new(timeout))
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
