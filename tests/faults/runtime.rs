//! A session, a server or a client that is dropped after its nth poll, for every n of its life.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use getty::{
    BoxError, Client, Closed, Connection, Connector, Layer, Pipeline, Session,
    client::Backoff,
    net::{TcpConnector, TcpListener, UdpConnector, UdpListener, memory},
    ws::{WsConnectLayer, WsLayer},
};
use tokio::{io::DuplexStream, runtime::Builder, sync::oneshot};
use tokio_test::task::{self, Spawn};
use tower::{ServiceExt, service_fn};

use crate::app::{Side, Tls, soon};

/// Byte streams in memory, and the layers over them.
#[derive(Clone, Copy, Debug)]
enum Over {
    Stream,
    Tls,
    Ws,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

type Life = Spawn<BoxFuture<'static, Result<Closed, BoxError>>>;

/// Small, so that messages and handshakes arrive in parts.
const PIPE: usize = 48;

fn server(over: Over, side: &Side, io: DuplexStream, tls: &Tls) -> Life {
    fn call(mut stack: impl Pipeline<DuplexStream>, io: DuplexStream) -> Life {
        // Called before the first poll, as `serve` does.
        let ready = poll_fn(|cx| stack.poll_ready(cx)).now_or_never();
        assert!(ready.is_some_and(|ready| ready.is_ok()));
        let future = stack.call(Connection::new(io));
        task::spawn(async move { future.await.map_err(Into::into) }.boxed())
    }
    let inner = side.server();
    match over {
        Over::Stream => call(side.outside(inner), io),
        Over::Tls => call(side.outside(tls.accept().layer(inner)), io),
        Over::Ws => call(side.outside(WsLayer::new().layer(inner)), io),
    }
}

fn client(over: Over, side: &Side, io: DuplexStream, tls: &Tls) -> Life {
    let side = side.clone();
    let dial = Arc::new(std::sync::Mutex::new(Some(io)));
    let dial = service_fn(move |_: (String, u16)| {
        let io = dial.lock().unwrap().take().unwrap();
        async move { Ok::<_, BoxError>(Connection::new(io)) }
    });
    let tls = tls.connect();
    let target = ("server.test".to_owned(), 7);
    let life = async move {
        let inner = side.server();
        match over {
            Over::Stream => {
                let connection = dialled(dial, target).await?;
                run(side.outside(inner), connection).await
            }
            Over::Tls => {
                let connection = dialled(tls.layer(dial), target).await?;
                run(side.outside(inner), connection).await
            }
            Over::Ws => {
                let connector = WsConnectLayer::new().layer(dial);
                let connection = dialled(connector, "ws://server.test:7/".to_owned()).await?;
                run(side.outside(inner), connection).await
            }
        }
    };
    task::spawn(life.boxed())
}

fn dialled<C, A>(connector: C, target: A) -> BoxFuture<'static, Result<Connection<C::Io>, BoxError>>
where
    C: Connector<A, Io: Send> + Send + 'static,
    C::Future: Send,
    A: Send + 'static,
{
    async move { connector.oneshot(target).await.map_err(Into::into) }.boxed()
}

fn run<T, S>(stack: S, connection: Connection<T>) -> BoxFuture<'static, Result<Closed, BoxError>>
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    async move { stack.oneshot(connection).await.map_err(Into::into) }.boxed()
}

/// Polls a future if it was woken. Returns `true` if it was polled.
fn step(life: &mut Option<Life>) -> bool {
    let Some(task) = life.as_mut().filter(|task| task.is_woken()) else {
        return false;
    };
    if task.poll().is_ready() {
        *life = None;
    }
    true
}

/// The application on the client's side: one message after another, then a close. Runs beside
/// the two ends and is polled whenever they have been.
async fn script(client: Side) {
    assert_eq!(client.hear().await, "!opened");
    assert_eq!(client.hear().await, "!kept");
    let session: Session<String> = client.sessions.all().pop().unwrap();
    for request in [
        "one",
        "yield",
        "push",
        "a longer message than the pipe can hold at once",
    ] {
        session.send(format!("?{request}")).await.unwrap();
        if request == "push" {
            assert_eq!(client.hear().await, "!kept");
            assert_eq!(client.hear().await, "!pushed");
        }
        assert_eq!(client.hear().await, format!("!{request}"));
    }
    session.close();
}

/// Lives until the subject was polled `n` times, then drops it. Returns the number of its polls
/// if it ended before.
async fn live(over: Over, role: Role, n: usize, tls: &Tls) -> Option<usize> {
    let (server_side, client_side) = (Side::new(), Side::new());
    let (near, far) = tokio::io::duplex(PIPE);
    let mut ends = [
        Some(server(over, &server_side, near, tls)),
        Some(client(over, &client_side, far, tls)),
    ];
    let (subject, other) = match role {
        Role::Server => (0, 1),
        Role::Client => (1, 0),
    };
    let mut script = task::spawn(script(client_side.clone()).boxed());
    // A new future counts as woken only once it was polled.
    let mut polls = 0;
    let mut first = [true; 2];
    let mut scripted = false;
    let mut idle = 0;
    while polls < n && ends[subject].is_some() {
        let mut moved = false;
        for end in [subject, other] {
            if end == subject && polls == n {
                break;
            }
            let polled = if std::mem::take(&mut first[end]) {
                if let Some(task) = &mut ends[end]
                    && task.poll().is_ready()
                {
                    ends[end] = None;
                }
                true
            } else {
                step(&mut ends[end])
            };
            polls += usize::from(polled && end == subject);
            moved |= polled;
        }
        if !scripted {
            scripted = script.poll().is_ready();
        }
        if moved {
            idle = 0;
        } else {
            // Tasks of the runtime, or timers: the clock is paused.
            idle += 1;
            assert!(
                idle < 1000,
                "{over:?} {role:?}: a wake-up was lost after {polls} polls"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let lived = ends[subject].is_none();
    let handles = [&server_side, &client_side].map(|side| side.connections.all());
    drop(ends[subject].take());
    drop(script);
    let what = (over, role, n);
    let sides = [&server_side, &client_side];
    sides[subject].assert_settled(&what);
    for handle in &handles[subject] {
        let closed = handle.closed().now_or_never();
        let closed = closed.unwrap_or_else(|| panic!("{what:?}: `closed` waits"));
        assert_eq!(sides[subject].reasons(), [closed.reason], "{what:?}");
    }
    // The other end sees the end of the pipe.
    if let Some(task) = ends[other].take() {
        let ended = tokio::time::timeout(Duration::from_secs(3600), task).await;
        assert!(ended.is_ok(), "{what:?}: the other end waits");
    }
    sides[other].assert_settled(&what);
    lived.then_some(polls)
}

async fn dropped_after_every_poll(over: Over) {
    let tls = Tls::new();
    for role in [Role::Server, Role::Client] {
        let mut n = 0;
        let polls = loop {
            if let Some(polls) = live(over, role, n, &tls).await {
                break polls;
            }
            n += 1;
        };
        // Every poll of a whole life was the last one once.
        assert_eq!(polls, n, "{over:?} {role:?}");
        assert!(polls > 10, "{over:?} {role:?}: {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn session_over_a_stream_that_is_dropped_after_any_poll_leaves_nothing() {
    dropped_after_every_poll(Over::Stream).await;
}

#[tokio::test(start_paused = true)]
async fn session_over_tls_that_is_dropped_after_any_poll_leaves_nothing() {
    dropped_after_every_poll(Over::Tls).await;
}

#[tokio::test(start_paused = true)]
async fn session_over_websocket_that_is_dropped_after_any_poll_leaves_nothing() {
    dropped_after_every_poll(Over::Ws).await;
}

/// Listeners whose runtime is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    Memory,
    Tcp,
    Tls,
    Ws,
    Unix,
    Udp,
}

/// Runs a server and a client that calls it, until both have ended.
async fn serve_and_call(net: Net, server: Side, client: Side, tls: Tls) {
    async fn run<L, C, A>(
        listener: L,
        stack: impl Pipeline<L::Io>,
        connector: C,
        target: A,
        side: Side,
    ) where
        L: getty::Listener,
        C: Connector<A, Io: getty::Transport + Send + 'static> + Clone + Send + 'static,
        C::Future: Send,
        A: Clone + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = getty::serve(listener, stack)
            .with_graceful_shutdown(async move { drop(stopped.await) });
        let served = tokio::spawn(async move { serve.await.unwrap() });
        let builder = side.clone();
        let called: Client<String> = Client::builder()
            .with_backoff(Backoff::new(
                Duration::from_millis(1),
                Duration::from_millis(2),
            ))
            .with_hook(|session: Session<String>| async move {
                session.send("?hook".to_owned()).await.map(drop)
            })
            .connect(connector, target, move |link| {
                builder.outside(builder.client(link))
            });
        called.send("?yield".to_owned()).await.unwrap();
        while side.hear().await != "!yield" {}
        called.stop();
        called.stopped().await;
        let _ = stop.send(());
        served.await.unwrap();
    }
    let inner = server.server();
    match net {
        Net::Memory => {
            let (listener, connector) = memory(PIPE);
            run(listener, server.outside(inner), connector, (), client).await;
        }
        Net::Udp => {
            let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            run(
                listener,
                server.outside(inner),
                UdpConnector::new(),
                address,
                client,
            )
            .await;
        }
        Net::Unix => {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            let listener = getty::net::UnixListener::bind(&path).unwrap();
            let connector = getty::net::UnixConnector::new();
            run(listener, server.outside(inner), connector, path, client).await;
        }
        _ => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let dial = TcpConnector::new();
            match net {
                Net::Tls => {
                    let stack = server.outside(tls.accept().layer(inner));
                    run(listener, stack, tls.connect().layer(dial), address, client).await;
                }
                Net::Ws => {
                    let stack = server.outside(WsLayer::new().layer(inner));
                    let url = format!("ws://{address}/");
                    run(
                        listener,
                        stack,
                        WsConnectLayer::new().layer(dial),
                        url,
                        client,
                    )
                    .await;
                }
                _ => run(listener, server.outside(inner), dial, address, client).await,
            }
        }
    }
}

/// Polls `future` `n` times, each time after one task of the runtime. Returns its output.
async fn for_ticks<F: Future>(n: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut ticks = 0;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if ticks == n {
            return Poll::Ready(None);
        }
        ticks += 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

fn runtime_dropped_after_every_tick(net: Net) {
    let tls = Tls::new();
    for n in 0.. {
        let (server, client) = (Side::new(), Side::new());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(1)
            .global_queue_interval(1)
            .build()
            .unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let life = serve_and_call(net, server.clone(), client.clone(), tls.clone());
        let ended = Arc::clone(&done);
        runtime.block_on(for_ticks(n, async move {
            let life = tokio::spawn(life);
            soon(life).await.unwrap();
            ended.store(true, SeqCst);
        }));
        drop(runtime);
        server.assert_settled(&(net, n));
        client.assert_settled(&(net, n));
        if done.load(SeqCst) {
            assert!(n > 20, "{n}");
            assert!(!server.records().is_empty() && !client.records().is_empty());
            return;
        }
    }
}

#[test]
fn runtime_of_memory_connections_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Memory);
}

#[test]
fn runtime_of_tcp_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Tcp);
}

#[test]
fn runtime_of_tls_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Tls);
}

#[test]
fn runtime_of_websocket_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Ws);
}

#[test]
fn runtime_of_unix_sockets_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Unix);
}

#[test]
fn runtime_of_udp_is_dropped_after_any_tick() {
    runtime_dropped_after_every_tick(Net::Udp);
}
