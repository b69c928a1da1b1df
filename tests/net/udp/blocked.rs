//! Threads that are blocked for longer than an idle timeout.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use getty::{
    BoxError, CloseReason, CodecLayer, ConnectionHandle, Pipeline, Request, ServiceBuilder,
    SessionLayer,
    layers::IdleTimeoutLayer,
    net::{UdpListener, UdpPeer},
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc},
    time::advance,
};

use super::{SOON, V4, Whole, ask, peer_of, receive, serve, soon};

const IDLE: Duration = Duration::from_secs(60);

/// Advances the clock while the thread can do nothing else, like a blocking call.
fn block(time: Duration) {
    let moved = Box::pin(advance(time)).now_or_never();
    assert!(
        moved.is_none(),
        "the clock has advanced, and the future only yields"
    );
}

/// Prevents the paused clock from advancing by itself during a test.
fn hold_time() {
    let began = std::time::Instant::now();
    tokio::spawn(async move {
        while began.elapsed() < SOON {
            tokio::task::yield_now().await;
        }
    });
}

/// Polls the condition until it is true. Real time limits the wait because the clock is paused.
async fn until(mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < SOON, "timed out");
        tokio::task::yield_now().await;
    }
}

async fn hello(address: std::net::SocketAddr) -> UdpSocket {
    let peer = peer_of(address).await;
    assert_eq!(ask(&peer, "hello").await, "hello");
    peer
}

/// An echo that calls `act` before each answer to the message `act`.
fn acting_echo(
    idle: Option<Duration>,
    act: impl Fn() + Send + Sync + 'static,
) -> (
    impl Pipeline<UdpPeer> + Clone,
    mpsc::UnboundedReceiver<ConnectionHandle>,
) {
    let (seen, sessions) = mpsc::unbounded_channel();
    let act = Arc::new(act);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(IdleTimeoutLayer::new(idle.unwrap_or(Duration::MAX)))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Bytes>| {
            let (seen, act) = (seen.clone(), Arc::clone(&act));
            async move {
                if request.message() == "act" {
                    seen.send(request.session().handle().clone())?;
                    act();
                }
                Ok::<_, BoxError>(request.into_message())
            }
        });
    (stack, sessions)
}

#[tokio::test(start_paused = true)]
async fn peers_that_sent_while_the_thread_was_blocked_do_not_expire() {
    // More peers than one poll reads.
    const PEERS: usize = 300;

    hold_time();
    let listener = UdpListener::builder().with_idle_timeout(IDLE);
    let listener = listener
        .with_recv_buffer_size(1 << 20)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let peers = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&peers);
    let (stack, _sessions) = acting_echo(None, move || {
        for peer in &*all.lock().unwrap() {
            let peer: &UdpSocket = peer;
            peer.try_send(b"again").unwrap();
        }
        block(2 * IDLE);
    });
    let _server = serve(listener, stack);
    let blocking = hello(address).await;
    let silent = hello(address).await;
    let mut talking = Vec::new();
    for _ in 0..PEERS {
        talking.push(hello(address).await);
    }
    // No peer sends meanwhile. Each silent peer must be spared once.
    assert_eq!(ask(&blocking, "act").await, "act");
    assert_eq!(monitor.stats().expired, 0);

    peers.lock().unwrap().append(&mut talking);
    assert_eq!(ask(&blocking, "act").await, "act");
    let talking = std::mem::take(&mut *peers.lock().unwrap());
    for peer in talking {
        assert_eq!(receive(&peer).await, "again");
    }
    assert_eq!(monitor.stats().overflowed, 0);
    until(|| monitor.stats().expired == 1).await;
    assert_eq!(monitor.peers(), PEERS + 1);
    // The expired peer opens another session.
    assert_eq!(ask(&silent, "hello").await, "hello");
    assert_eq!(monitor.peers(), PEERS + 2);
}

#[tokio::test(start_paused = true)]
async fn session_whose_handler_blocks_is_idle_only_if_silent_after_that() {
    hold_time();
    for inline in [true, false] {
        for (listener, layer) in [(Some(IDLE), None), (None, Some(IDLE))] {
            let listener = UdpListener::builder()
                .with_idle_timeout(listener)
                .with_inline_polling(inline)
                .bind(V4)
                .await
                .unwrap();
            let address = listener.local_addr().unwrap();
            let monitor = listener.monitor();
            let (stack, mut sessions) = acting_echo(layer, || block(3 * IDLE));
            let _server = serve(listener, stack);
            let peer = hello(address).await;
            assert_eq!(ask(&peer, "act").await, "act");
            let session = soon(sessions.recv()).await.unwrap();
            advance(IDLE / 2).await;
            assert_eq!(ask(&peer, "hello").await, "hello");
            assert!(!session.is_closing());
            assert_eq!(monitor.peers(), 1);
            // It is closed the second time without a datagram in between. A late deadline also
            // waits for a turn of the runtime, which an advance may end.
            for _ in 0..5 {
                advance(2 * IDLE).await;
            }
            assert_eq!(
                soon(session.closed()).await.reason,
                CloseReason::IdleTimeout
            );
            until(|| monitor.peers() == 0).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_waits_for_an_answer_does_not_expire() {
    hold_time();
    let listener = UdpListener::builder().with_idle_timeout(IDLE);
    let listener = listener.bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (called, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gates = (Arc::clone(&called), Arc::clone(&go_on));
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Bytes>| {
            let (called, go_on) = gates.clone();
            async move {
                if request.message() == "wait" {
                    called.notify_one();
                    go_on.notified().await;
                }
                Ok::<_, BoxError>(request.into_message())
            }
        });
    let _server = serve(listener, stack);
    let (waiting, silent) = (hello(address).await, hello(address).await);
    waiting.send(b"wait").await.unwrap();
    soon(called.notified()).await;
    for _ in 0..200 {
        advance(IDLE / 20).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((monitor.stats().expired, monitor.peers()), (1, 1));
    go_on.notify_one();
    assert_eq!(receive(&waiting).await, "wait");
    for _ in 0..200 {
        advance(IDLE / 20).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((monitor.stats().expired, monitor.peers()), (2, 0));
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn flood_does_not_prevent_the_expiry_of_silent_peers() {
    // Waiting datagrams: always more than the largest batch.
    const WAITING: usize = 200;

    hold_time();
    let listener = UdpListener::builder().with_idle_timeout(IDLE);
    let listener = listener.bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let flooding = Arc::new(peer_of(address).await);
    let goes_on = Arc::new(AtomicBool::new(true));
    let (sender, stop) = (Arc::clone(&flooding), Arc::clone(&goes_on));
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Bytes>| {
            let answer = request.message() == "hello";
            if !answer && stop.load(SeqCst) {
                block(Duration::from_millis(1));
                sender.try_send(b"more").unwrap();
            }
            async move { Ok::<_, BoxError>(answer.then(|| request.into_message())) }
        });
    let _server = serve(listener, stack);
    let silent = hello(address).await;
    for _ in 0..WAITING {
        flooding.send(b"more").await.unwrap();
    }
    until(|| monitor.stats().expired == 1).await;
    goes_on.store(false, SeqCst);
    assert_eq!(ask(&silent, "hello").await, "hello");
}
