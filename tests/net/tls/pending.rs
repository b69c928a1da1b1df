//! Silent peers beside honest ones.

use std::time::Duration;

use getty::{
    CloseReason, ServiceBuilder,
    layers::{
        HandshakeTimeoutLayer, PendingLimitLayer,
        pending_limit::{Overflow, TooManyPending},
    },
    tls::{TlsLayer, TlsOrPlainLayer},
};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::kit::{Authority, Server, app, settings, trusting};

const SECOND: Duration = Duration::from_secs(1);

// Contract 4.
#[tokio::test(start_paused = true)]
async fn pending_connections_count_until_they_open_or_end_and_the_oldest_is_dropped() {
    let authority = Authority::new();
    let limit = PendingLimitLayer::new(100).with_overflow(Overflow::DropOldest);
    let tls = TlsLayer::new(settings(&authority).load().unwrap());
    let stack = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(TlsOrPlainLayer::new(tls))
        .service(app());
    let mut server = Server::with_stack(stack);
    let started = Instant::now();
    let mut silent = Vec::new();
    let mut honest = Vec::new();
    for n in 0..1_000 {
        let mut peer = server.dial().await;
        // Some have sent a part of a hello.
        peer.write_all(&[0x16, 3, 1, 0][..n % 4 + 1]).await.unwrap();
        silent.push(peer);
        if n % 50 == 0 {
            let mut client = server.connect(trusting(&authority)).await.unwrap();
            assert_eq!(client.ask("hello").await, "hello");
            honest.push(client);
        }
        assert!(limit.pending() <= 100);
    }
    for _ in 0..900 {
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::Refused);
        assert!(closed.source.unwrap().is::<TooManyPending>());
    }
    // Honest peers did not wait for any deadline.
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(limit.pending(), 100);
    for _ in 0..100 {
        assert_eq!(server.end().await.reason, CloseReason::HandshakeTimeout);
    }
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert_eq!(limit.pending(), 0);
    for client in &mut honest {
        assert_eq!(client.ask("still here").await, "still here");
    }
}

#[tokio::test(start_paused = true)]
async fn newest_is_refused_until_the_deadline_ends_silent_peers() {
    let authority = Authority::new();
    let limit = PendingLimitLayer::new(1_000);
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::new(3 * SECOND))
        .layer(limit.clone())
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .service(app());
    let mut server = Server::with_stack(stack);
    let mut before = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(before.ask("hello").await, "hello");
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(server.dial().await);
    }
    while limit.pending() < 1_000 {
        tokio::task::yield_now().await;
    }
    let refused = server.connect(trusting(&authority)).await;
    assert!(refused.is_err());
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    let source = closed.source.unwrap();
    let error: &TooManyPending = source.downcast_ref().unwrap();
    assert_eq!(error.limit(), 1_000);
    assert_eq!(before.ask("still here").await, "still here");

    for _ in 0..1_000 {
        assert_eq!(server.end().await.reason, CloseReason::HandshakeTimeout);
    }
    assert_eq!(limit.pending(), 0);
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
}
