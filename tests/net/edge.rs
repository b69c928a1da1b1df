//! Many and hostile connections through all layers of the edge at once.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, ConnectionRouter,
    Rate, Reply, ServiceBuilder, SessionLayer,
    codec::Lines,
    handle,
    layers::{
        CloseCallbackLayer, PendingLimitLayer, Registry, RegistryLayer, access::AccessList,
        pending_limit::Overflow,
    },
    net::TcpListener,
    proxy::ProxyProtocolLayer,
    tls::{TlsInfo, TlsLayer, TlsOrPlainLayer, TlsOrPlainTransport, rustls::pki_types::ServerName},
    upgrade::{Opening, OpeningLayer, StartTlsLayer, UpgradeLayer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tower::{limit::GlobalConcurrencyLimitLayer, util::BoxCloneSyncService};

use super::tls::kit::{Authority, NAME, settings, trusting};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 4096 80\r\n";
const PERMITS: usize = 256;
/// Number of connections. With 10,000 the result is the same.
const TOTAL: usize = 1_280;

struct Edge {
    address: SocketAddr,
    permits: Arc<Semaphore>,
    pending: PendingLimitLayer,
    registry: Registry<ConnectionHandle>,
    panicked: Arc<AtomicUsize>,
    client: TlsConnector,
}

/// Function of the application that panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Choose,
    Key,
    OpenSync,
    Open,
    UpgradeSync,
    Upgrade,
}

type Io = TlsOrPlainTransport<TcpStream>;
type Stack = BoxCloneSyncService<Connection<Io>, Closed, BoxError>;

fn session_stack(fault: Fault) -> Stack {
    let upgrade = UpgradeLayer::new(move |io: Io, _: ConnectionHandle| {
        assert!(fault != Fault::UpgradeSync, "injected");
        async move {
            assert!(fault != Fault::Upgrade, "injected");
            let mut io = io;
            let mut byte = [0];
            io.read_exact(&mut byte).await?;
            Ok::<_, io::Error>(io)
        }
    });
    Stack::new(
        ServiceBuilder::new()
            .layer(upgrade)
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service(handle(|line: String| match line.as_str() {
                "UPGRADE" => Reply::one("220".to_owned()).and_upgrade(),
                _ => Reply::one(line),
            })),
    )
}

fn opening_stack(fault: Fault) -> Stack {
    let open = move |mut talk: Opening<Io, Lines>| {
        assert!(fault != Fault::OpenSync, "injected");
        async move {
            let line = talk.receive().await?.ok_or("no login")?;
            assert!(fault != Fault::Open, "injected");
            if line != "LOGIN" {
                return Err(talk.refuse("no", "no login").await);
            }
            talk.send("welcome").await?;
            Ok(talk.carry()?)
        }
    };
    Stack::new(
        ServiceBuilder::new()
            .layer(OpeningLayer::new(Lines::new(), open))
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service(handle(|line: String| line)),
    )
}

async fn edge(fault: Fault, max_pending: usize) -> Edge {
    let authority = Authority::new();
    let config = settings(&authority).load().unwrap();
    let permits = Arc::new(Semaphore::new(PERMITS));
    let pending = PendingLimitLayer::new(max_pending).with_overflow(Overflow::DropOldest);
    let registry = Registry::untyped();
    let panicked = Arc::new(AtomicUsize::new(0));
    let count_panicked = Arc::clone(&panicked);
    let tls = TlsLayer::choose(move |hello| {
        assert!(fault != Fault::Choose, "injected");
        let _ = hello.server_name();
        Ok(config.clone())
    })
    .with_handshake_rate(Rate::per_second(100_000).with_burst(1000));
    let router = ConnectionRouter::new(move |handle| {
        assert!(fault != Fault::Key, "injected");
        Some(handle.get::<TlsInfo>().is_some())
    })
    .with_route(true, opening_stack(fault))
    .with_fallback(session_stack(fault));
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
        .layer(CloseCallbackLayer::new("test", "end", move |closed| {
            if closed.reason == CloseReason::Panicked {
                count_panicked.fetch_add(1, SeqCst);
            }
        }))
        .layer(pending.clone())
        .layer(ProxyProtocolLayer::from_sources(AccessList::allow_all()))
        .layer(TlsOrPlainLayer::new(tls).with_detect_timeout(Duration::from_millis(500)))
        .layer(RegistryLayer::new(registry.clone()))
        .service(router);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    Edge {
        address,
        permits,
        pending,
        registry,
        panicked,
        client: trusting(&authority).into(),
    }
}

impl Edge {
    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask<T: AsyncRead + AsyncWrite + Unpin>(io: T, line: &str) -> io::Result<(T, String)> {
        let mut io = BufReader::new(io);
        io.write_all(line.as_bytes()).await?;
        io.write_all(b"\n").await?;
        io.flush().await?;
        let mut answer = String::new();
        io.read_line(&mut answer).await?;
        Ok((io.into_inner(), answer))
    }

    async fn plain(&self) -> io::Result<TcpStream> {
        let mut io = self.dial().await;
        io.write_all(HEADER).await?;
        let (io, answer) = Self::ask(io, "hello").await?;
        if answer != "hello\n" {
            return Err(io::Error::other(answer));
        }
        Ok(io)
    }

    async fn secure(&self) -> io::Result<()> {
        let mut io = self.dial().await;
        io.write_all(HEADER).await?;
        let io = self
            .client
            .connect(ServerName::try_from(NAME).unwrap(), io)
            .await?;
        let (io, answer) = Self::ask(io, "LOGIN").await?;
        if answer != "welcome\n" {
            return Err(io::Error::other(answer));
        }
        let (mut io, answer) = Self::ask(io, "hello").await?;
        if answer != "hello\n" {
            return Err(io::Error::other(answer));
        }
        io.shutdown().await
    }

    async fn upgraded(&self) -> io::Result<()> {
        let mut io = self.dial().await;
        io.write_all(HEADER).await?;
        let (io, answer) = Self::ask(io, "UPGRADE").await?;
        if answer != "220\n" {
            return Err(io::Error::other(answer));
        }
        let mut io = io;
        io.write_all(b"+").await?;
        let (_, answer) = Self::ask(io, "hello").await?;
        if answer != "hello\n" {
            return Err(io::Error::other(answer));
        }
        Ok(())
    }

    /// Begins a connection that ends in phase `n`.
    async fn hostile(&self, n: usize) {
        let mut io = self.dial().await;
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        let script: &[&[u8]] = match n % 16 {
            0 => &[],
            1 => &[&HEADER[..20]],
            2 => &[HEADER],
            3 => &[HEADER, &hello],
            4 => &[HEADER, &hello[..2]],
            5 => &[HEADER, b"UPGRADE\n"],
            6 => &[HEADER, b"UPGRADE\nevil\n"],
            7 => &[HEADER, b"UPGRADE\n", b"x", b"more\n"],
            8 => &[HEADER, HEADER, b"\n"],
            9 => &[b"GET / HTTP/1.1\r\n\r\n"],
            10 => &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"],
            11 => &[HEADER, b"hello\n"],
            12 => &[HEADER, b"hello"],
            13 => &[b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"\x16\x03\x01\xff\xff"],
            14 => &[HEADER, b"\x16\x03\x01\0\x02\x01\0"],
            _ => &[b"PROXY UNKNOWN\r\n", b"UPGRADE\n"],
        };
        for part in script {
            let _ = io.write_all(part).await;
            if n.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
        }
        match (n / 16) % 3 {
            0 => drop(io),
            1 => {
                let _ = io.set_zero_linger();
            }
            _ => {
                let _ = io.shutdown().await;
                let mut rest = Vec::new();
                let _ = timeout(Duration::from_secs(2), io.read_to_end(&mut rest)).await;
            }
        }
    }

    async fn until_empty(&self) {
        let empty = async {
            while self.permits.available_permits() < PERMITS - 1
                || self.pending.pending() > 0
                || !self.registry.is_empty()
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(Duration::from_secs(20), empty).await.is_err() {
            panic!(
                "permits {} pending {} registry {}",
                self.permits.available_permits(),
                self.pending.pending(),
                self.registry.len()
            );
        }
    }
}

#[test]
fn connections_that_end_in_every_phase_leave_nothing() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let edge = Arc::new(edge(Fault::None, 200).await);
        edge.plain().await.unwrap();
        edge.secure().await.unwrap();
        edge.upgraded().await.unwrap();
        edge.until_empty().await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        let mut workers = Vec::new();
        for worker in 0..64 {
            let edge = Arc::clone(&edge);
            workers.push(tokio::spawn(async move {
                let mut served = 0;
                for n in 0..TOTAL / 64 {
                    match n % 20 {
                        17 => served += usize::from(edge.plain().await.is_ok()),
                        18 => served += usize::from(edge.secure().await.is_ok()),
                        19 => served += usize::from(edge.upgraded().await.is_ok()),
                        _ => edge.hostile(n * 7 + worker).await,
                    }
                }
                served
            }));
        }
        let mut served = 0;
        for worker in workers {
            served += worker.await.unwrap();
        }
        edge.until_empty().await;
        assert_eq!(served, TOTAL / 20 * 3, "honest peers are served");
        assert_eq!(edge.panicked.load(SeqCst), 0);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
        edge.plain().await.unwrap();
        edge.secure().await.unwrap();
    });
}

#[test]
fn flood_drops_the_oldest_and_never_an_open_session() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let edge = Arc::new(edge(Fault::None, 8).await);
        let mut workers = Vec::new();
        for worker in 0..96 {
            let edge = edge.clone();
            workers.push(tokio::spawn(async move {
                let (mut opened, mut lost) = (0, 0);
                for n in 0..100 {
                    if worker % 2 == 0 {
                        edge.hostile(n + worker).await;
                    } else if let Ok(io) = edge.plain().await {
                        opened += 1;
                        let again = Edge::ask(io, "again").await;
                        lost += usize::from(!matches!(again, Ok((_, line)) if line == "again\n"));
                    }
                }
                (opened, lost)
            }));
        }
        let (mut opened, mut lost) = (0, 0);
        for worker in workers {
            let (o, l) = worker.await.unwrap();
            opened += o;
            lost += l;
        }
        edge.until_empty().await;
        assert!(opened > 0);
        assert_eq!(lost, 0, "of {opened} sessions");
        assert_eq!(edge.panicked.load(SeqCst), 0);
        edge.plain().await.unwrap();
    });
}

#[test]
fn panics_of_each_function_end_their_connection_alone() {
    for fault in [
        Fault::Choose,
        Fault::Key,
        Fault::OpenSync,
        Fault::Open,
        Fault::UpgradeSync,
        Fault::Upgrade,
    ] {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let edge = edge(fault, 200).await;
            let tasks = Handle::current().metrics().num_alive_tasks();
            for _ in 0..5 {
                let secure = timeout(Duration::from_secs(5), edge.secure())
                    .await
                    .unwrap();
                let upgraded = timeout(Duration::from_secs(5), edge.upgraded())
                    .await
                    .unwrap();
                let expected = match fault {
                    Fault::Choose | Fault::OpenSync | Fault::Open => (false, true),
                    Fault::Key => (false, false),
                    _ => (true, false),
                };
                assert_eq!(
                    (secure.is_ok(), upgraded.is_ok()),
                    expected,
                    "{secure:?} {upgraded:?}"
                );
            }
            edge.until_empty().await;
            let expected = if fault == Fault::Key { 10 } else { 5 };
            assert_eq!(
                edge.panicked.load(SeqCst),
                expected,
                "fault {}",
                fault as u8
            );
            assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
        });
    }
}

#[test]
fn runtime_dropped_in_each_phase_ends_everything() {
    for n in 0..16 {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let edge = runtime.block_on(async {
            let edge = edge(Fault::None, 200).await;
            for _ in 0..3 {
                let edge = &edge;
                let _ = timeout(Duration::from_millis(15), edge.hostile(n + 32)).await;
            }
            edge
        });
        drop(runtime);
        assert_eq!(edge.pending.pending(), 0);
        assert!(edge.registry.is_empty());
    }
}

#[test]
fn shutdown_in_each_phase_is_prompt() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = settings(&Authority::new()).load().unwrap();
        for n in 0..6 {
            let app = ServiceBuilder::new()
                .layer(ProxyProtocolLayer::from_sources(AccessList::allow_all()))
                .layer(StartTlsLayer::new(config.clone()))
                .layer(CodecLayer::new(Lines::new()))
                .layer(SessionLayer::new())
                .service(handle(|line: String| match line.as_str() {
                    "UPGRADE" => Reply::one("220".to_owned()).and_upgrade(),
                    _ => Reply::one(line),
                }));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stop = Arc::new(tokio::sync::Notify::new());
            let stopped = stop.clone();
            let served = tokio::spawn(async move {
                getty::serve(listener, app)
                    .with_graceful_shutdown(async move { stopped.notified().await })
                    .await
            });
            let mut io = TcpStream::connect(address).await.unwrap();
            let script: &[&[u8]] = match n {
                0 => &[],
                1 => &[&HEADER[..20]],
                2 => &[HEADER],
                3 => &[HEADER, b"hel"],
                4 => &[HEADER, b"UPGRADE\n"],
                _ => &[HEADER, b"UPGRADE\n", b"\x16\x03\x01\x02\0"],
            };
            for part in script {
                io.write_all(part).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(20)).await;
            stop.notify_one();
            let mut rest = Vec::new();
            let read = timeout(Duration::from_secs(2), io.read_to_end(&mut rest)).await;
            drop(io);
            let ended = timeout(Duration::from_secs(2), served).await;
            assert!(read.is_ok() && ended.is_ok(), "phase {n}");
        }
    });
}
