//! Many peers at once and sessions that misbehave, with and without inline polling.

use std::{
    collections::HashSet,
    future::Future,
    net,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc as sync_mpsc,
    },
    thread,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::poll_fn, stream};
use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Pipeline, Request, ServiceBuilder,
    Session, SessionLayer,
    layers::OnOpenLayer,
    net::{Eviction, UdpListener, UdpPeer},
    service_fn,
};
use tokio::{
    net::UdpSocket,
    runtime,
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tower::{Service, layer::layer_fn};

use super::{SOON, V4, Whole, ask, echo, peer_of, receive, reporting_echo, serve, soon, until};

async fn listen(inline: bool) -> UdpListener {
    let builder = UdpListener::builder().with_inline_polling(inline);
    builder.bind(V4).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_peers_are_each_answered_by_a_separate_session() {
    const PEERS: usize = 2_000;
    // Datagrams that certainly fit the socket's buffer. The operating system may drop further
    // ones.
    const AT_ONCE: usize = 64;
    for inline in [true, false] {
        let listener = listen(inline).await;
        let (address, monitor) = (listener.local_addr().unwrap(), listener.monitor());
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let peers = stream::iter(0..PEERS).map(|_| peer_of(address));
        let peers: Vec<_> = peers.buffered(AT_ONCE).collect().await;
        for round in 0..3 {
            let asked = stream::iter(peers.iter().enumerate()).map(|(n, peer)| async move {
                let message = format!("{n} {round}");
                assert_eq!(ask(peer, &message).await, message);
            });
            asked.buffer_unordered(AT_ONCE).collect::<()>().await;
        }
        assert_eq!(monitor.peers(), PEERS);
        let mut opened = HashSet::new();
        for _ in 0..PEERS {
            let session = soon(sessions.recv()).await.unwrap();
            assert_eq!(session.stats().messages_in, 3);
            opened.insert(session.id());
        }
        assert_eq!(opened.len(), PEERS);
        assert!(sessions.try_recv().is_err());
    }
}

#[tokio::test]
async fn session_evicted_during_a_handler_still_answers_beside_the_next_session() {
    for inline in [true, false] {
        let builder = UdpListener::builder()
            .with_inline_polling(inline)
            .with_max_peers(1)
            .with_eviction(Eviction::LongestIdle);
        let listener = builder.bind(V4).await.unwrap();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        let other = peer_of(listener.local_addr().unwrap()).await;
        let release = Arc::new(Notify::new());
        let (opened, mut sessions) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Whole))
            .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
                let sent = opened.send(session);
                async move { sent.map_err(|_| BoxError::from("the test has ended")) }
            }))
            .layer(SessionLayer::new())
            .service_fn({
                let release = Arc::clone(&release);
                move |request: Request<Bytes>| {
                    let release = Arc::clone(&release);
                    async move {
                        if request.message() == "hold" {
                            release.notified().await;
                        }
                        Ok::<_, BoxError>(request.into_message())
                    }
                }
            });
        let _server = serve(listener, stack);
        peer.send(b"hold").await.unwrap();
        let first = soon(sessions.recv()).await.unwrap();
        assert_eq!(ask(&other, "hello").await, "hello");
        soon(sessions.recv()).await.unwrap();
        soon(first.closing()).await;
        assert!(!first.is_closed(), "its handler is in flight");
        assert_eq!(ask(&peer, "anybody there?").await, "anybody there?");
        let second = soon(sessions.recv()).await.unwrap();
        assert_ne!(first.id(), second.id());
        release.notify_one();
        assert_eq!(receive(&peer).await, "hold");
        assert_eq!(soon(first.closed()).await.reason, CloseReason::IdleTimeout);
    }
}

/// Misbehavior of a connection's future.
#[derive(Default)]
struct Faults {
    /// Panics at the next poll. Reset by it.
    panics: AtomicBool,
    wakes_itself: AtomicBool,
    polls: AtomicUsize,
}

/// An echo whose connection futures misbehave if the peer's port is the `chosen` one.
fn faulty(
    faults: Arc<Faults>,
    chosen: u16,
    ends: mpsc::UnboundedSender<Closed>,
) -> impl Pipeline<UdpPeer> + Clone {
    let inner = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(echo);
    ServiceBuilder::new()
        .layer(layer_fn(move |inner| Faulty {
            inner,
            faults: Arc::clone(&faults),
            chosen,
            ends: ends.clone(),
        }))
        .service(inner)
}

#[derive(Clone)]
struct Faulty<S> {
    inner: S,
    faults: Arc<Faults>,
    chosen: u16,
    ends: mpsc::UnboundedSender<Closed>,
}

type SessionFuture = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

impl<S> Service<Connection<UdpPeer>> for Faulty<S>
where
    S: Service<Connection<UdpPeer>, Response = Closed, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = SessionFuture;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<UdpPeer>) -> SessionFuture {
        let handle = connection.handle().clone();
        let (ends, faults) = (self.ends.clone(), Arc::clone(&self.faults));
        handle.add_close_callback("test", "end", move |closed: &Closed| {
            let _ = ends.send(closed.clone());
        });
        let peer = handle.peer_addr().socket_addr().unwrap();
        let mut future = Box::pin(self.inner.call(connection));
        if peer.port() != self.chosen {
            return future;
        }
        Box::pin(poll_fn(move |cx| {
            faults.polls.fetch_add(1, Relaxed);
            if faults.wakes_itself.load(SeqCst) {
                cx.waker().wake_by_ref();
            }
            let polled = future.as_mut().poll(cx);
            assert!(!faults.panics.swap(false, SeqCst), "requested panic");
            polled
        }))
    }
}

/// A server with a misbehaving session, of the first peer, and a good one.
async fn faults(
    inline: bool,
) -> (
    Arc<Faults>,
    [UdpSocket; 2],
    mpsc::UnboundedReceiver<Closed>,
    JoinHandle<()>,
) {
    let listener = listen(inline).await;
    let address = listener.local_addr().unwrap();
    let (bad, good) = (peer_of(address).await, peer_of(address).await);
    let (end, ends) = mpsc::unbounded_channel();
    let faults = Arc::<Faults>::default();
    let chosen = bad.local_addr().unwrap().port();
    let stack = faulty(Arc::clone(&faults), chosen, end);
    let server = serve(listener, stack);
    for peer in [&bad, &good] {
        assert_eq!(ask(peer, "hello").await, "hello");
    }
    (faults, [bad, good], ends, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_panics_when_polled_affects_no_other() {
    for inline in [true, false] {
        let (faults, [bad, good], mut ends, server) = faults(inline).await;
        for _ in 0..20 {
            faults.panics.store(true, SeqCst);
            bad.send(b"panic").await.unwrap();
            let closed = soon(ends.recv()).await.unwrap();
            assert_eq!(closed.reason, CloseReason::Dropped);
            assert_eq!(ask(&good, "still there?").await, "still there?");
            // An answer to the first datagram may arrive before.
            while ask(&bad, "again").await != "again" {}
        }
        assert!(ends.try_recv().is_err(), "each session ends once");
        assert!(!server.is_finished());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_always_wakes_itself_starves_no_other() {
    for inline in [true, false] {
        let (faults, [bad, good], _ends, _server) = faults(inline).await;
        faults.wakes_itself.store(true, SeqCst);
        assert_eq!(ask(&bad, "go").await, "go");
        let before = faults.polls.load(Relaxed);
        until(|| faults.polls.load(Relaxed) > before + 10).await;
        for n in 0..200 {
            let message = n.to_string();
            assert_eq!(ask(&good, &message).await, message);
            assert_eq!(ask(&bad, &message).await, message);
        }
    }
}

#[tokio::test]
async fn connection_that_always_wakes_itself_starves_no_other_on_one_thread() {
    for inline in [true, false] {
        let (faults, [bad, good], _ends, _server) = faults(inline).await;
        faults.wakes_itself.store(true, SeqCst);
        for n in 0..100 {
            let message = n.to_string();
            assert_eq!(ask(&bad, &message).await, message);
            assert_eq!(ask(&good, &message).await, message);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_closes_itself_when_polled_is_followed_by_another_of_its_peer() {
    for inline in [true, false] {
        let listener = listen(inline).await;
        let (address, monitor) = (listener.local_addr().unwrap(), listener.monitor());
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let (peer, other) = (peer_of(address).await, peer_of(address).await);
        for n in 0..200 {
            let message = n.to_string();
            assert_eq!(ask(&peer, &message).await, message);
            assert_eq!(ask(&other, &message).await, message);
            peer.send(b"stop").await.unwrap();
            let mut session = soon(sessions.recv()).await.unwrap();
            if n == 0 {
                // Two sessions have opened. They may open in any order.
                let port = peer.local_addr().unwrap().port();
                let second = soon(sessions.recv()).await.unwrap();
                if second.peer_addr().socket_addr().unwrap().port() == port {
                    session = second;
                }
            }
            assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
        }
        until(|| monitor.peers() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_from_other_threads_arrive_in_order_while_sessions_are_polled() {
    const PEERS: usize = 16;
    const SENT: usize = 500;
    for inline in [true, false] {
        let listener = listen(inline).await;
        let address = listener.local_addr().unwrap();
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let mut tasks = Vec::new();
        for _ in 0..PEERS {
            let peer = peer_of(address).await;
            assert_eq!(ask(&peer, "e").await, "e");
            let session = soon(sessions.recv()).await.unwrap();
            // The semaphore limits the datagrams in flight to what the peer's socket buffers.
            let room = Arc::new(Semaphore::new(32));
            let handle = runtime::Handle::current();
            let sender = {
                let room = Arc::clone(&room);
                thread::spawn(move || {
                    for n in 0..SENT {
                        handle.block_on(room.acquire()).unwrap().forget();
                        let message = Bytes::from(format!("s{n}"));
                        handle.block_on(session.feed(message)).unwrap();
                    }
                })
            };
            tasks.push(tokio::spawn(async move {
                let (mut sent, mut echoed) = (0, 0);
                peer.send(b"e").await.unwrap();
                while sent < SENT {
                    let message = receive(&peer).await;
                    if message == "e" {
                        echoed += 1;
                        peer.send(b"e").await.unwrap();
                    } else {
                        assert_eq!(message, format!("s{sent}"));
                        sent += 1;
                        room.add_permits(1);
                    }
                }
                while receive(&peer).await != "e" {}
                sender.join().unwrap();
                echoed
            }));
        }
        for task in tasks {
            soon(task).await.unwrap();
        }
    }
}

#[test]
fn end_of_the_runtime_during_a_poll_ends_each_session_once() {
    for (inline, workers) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .unwrap();
        let (begun, has_begun) = sync_mpsc::channel();
        let (word, go_on) = sync_mpsc::channel::<()>();
        let (open, opened) = sync_mpsc::channel();
        let (end, ends) = sync_mpsc::channel();
        let go_on = Arc::new(Mutex::new(go_on));
        let stack = ServiceBuilder::new()
            .map_request(move |connection: Connection<UdpPeer>| {
                let end = end.clone();
                let handle = connection.handle();
                let id = handle.id();
                open.send(id).unwrap();
                handle.add_close_callback("test", "end", move |_: &Closed| {
                    let _ = end.send(id);
                });
                connection
            })
            .layer(CodecLayer::new(Whole))
            .layer(SessionLayer::new())
            .service(service_fn(move |request: Request<Bytes>| {
                let message = request.into_message();
                if message == "block" {
                    begun.send(()).unwrap();
                    go_on.lock().unwrap().recv().unwrap();
                }
                async { Ok::<_, BoxError>(message) }
            }));
        let address = runtime.block_on(async {
            let listener = listen(inline).await;
            let address = listener.local_addr().unwrap();
            drop(serve(listener, stack));
            address
        });
        let peers: Vec<_> = (0..5)
            .map(|_| {
                let peer = net::UdpSocket::bind(V4).unwrap();
                peer.connect(address).unwrap();
                peer.set_read_timeout(Some(SOON)).unwrap();
                peer.send(b"hello").unwrap();
                peer.recv(&mut [0; 5]).unwrap();
                peer
            })
            .collect();
        peers[2].send(b"block").unwrap();
        has_begun.recv_timeout(SOON).unwrap();
        for peer in &peers {
            peer.send(b"more").unwrap();
        }
        let (dropped, drop_done) = sync_mpsc::channel();
        let drops = thread::spawn(move || {
            drop(runtime);
            dropped.send(()).unwrap();
        });
        // Both orders must work: the drop may or may not have reached the session that is polled.
        thread::yield_now();
        word.send(()).unwrap();
        drop_done
            .recv_timeout(SOON)
            .expect("the drop does not deadlock");
        drops.join().unwrap();
        // A datagram between the end of its session and the end of the reader must open another
        // session.
        let [opened, ended] = [opened, ends].map(|ids| {
            let mut ids: Vec<u64> = ids.iter().collect();
            ids.sort_unstable();
            ids
        });
        assert!(opened.len() >= peers.len(), "{opened:?}");
        assert_eq!(ended, opened);
    }
}

/// Sends without end.
fn flood(peer: Arc<UdpSocket>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let _ = peer.send(b"more").await;
            tokio::task::yield_now().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_drains_sessions_while_they_are_polled() {
    const PEERS: usize = 40;
    for inline in [true, false] {
        let listener = listen(inline).await;
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (stack, mut sessions) = reporting_echo();
        let server = getty::serve(listener, stack).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        let server = tokio::spawn(async move { server.await });
        let (mut peers, mut opened) = (Vec::new(), Vec::new());
        for _ in 0..PEERS {
            let peer = Arc::new(peer_of(address).await);
            assert_eq!(ask(&peer, "hello").await, "hello");
            opened.push(soon(sessions.recv()).await.unwrap());
            peers.push(peer);
        }
        let floods: Vec<_> = peers.iter().map(|peer| flood(Arc::clone(peer))).collect();
        for peer in &peers {
            assert_eq!(receive(peer).await, "more");
        }
        stop.send(()).unwrap();
        let drained = soon(server).await.unwrap().unwrap();
        floods.iter().for_each(JoinHandle::abort);
        assert_eq!((drained.finished, drained.aborted), (PEERS, 0));
        for session in opened {
            assert_eq!(session.closed().await.reason, CloseReason::Shutdown);
        }
    }
}
