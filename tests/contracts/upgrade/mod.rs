//! Upgrades of the transport in an open session, over a transport whose bytes show whether they
//! are plain: lower-case letters are, and upper-case letters have passed the upgraded one.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, Closed, CodecLayer, ConnectionHandle, Reply, Request, ServiceBuilder,
    Session, SessionLayer, Transport,
    codec::{Frame, Frames, Lines},
    handle,
    handler::{Keyed, Router},
    hooks::HandleExt,
    layers::{CorrelateLayer, HeartbeatLayer, IdleTimeoutLayer},
    service_fn,
    transport::{BoxTransport, Framing, Prefixed},
    upgrade::{BytesBeforeUpgrade, Upgradable, UpgradeError, UpgradeLayer},
};
use getty_test::{Peer, Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Semaphore,
    time::Instant,
};
use tokio_test::{assert_pending, task};
use tokio_util::codec::{Decoder, Encoder, LinesCodec};

use crate::support::{connector, idle, lines, panic_message, soon, words::Words};

const SECOND: Duration = Duration::from_secs(1);

/// Byte stream that swaps the case of all letters.
struct Swapped<T>(T);

fn swap(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() {
        byte ^ 0x20
    } else {
        byte
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Swapped<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        for byte in &mut buf.filled_mut()[before..] {
            *byte = swap(*byte);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Swapped<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let swapped: Vec<_> = buf.iter().copied().map(swap).collect();
        Pin::new(&mut self.0).poll_write(cx, &swapped)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| &**buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Handshake: the peer sends `+` and gets `+`.
async fn shake<T>(mut io: T, _: ConnectionHandle) -> Result<Swapped<T>, BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    match io.read_u8().await? {
        b'+' => {
            io.write_all(b"+").await?;
            io.flush().await?;
            Ok(Swapped(io))
        }
        other => Err(format!("{} is no handshake", char::from(other)).into()),
    }
}

/// Handles `upgrade` with the reply `ready` and an upgrade. Echoes other lines.
async fn upgrade_or_echo(line: String) -> Reply<String> {
    match line.as_str() {
        "upgrade" => Reply::one("ready".to_owned()).and_upgrade(),
        _ => Reply::one(line),
    }
}

/// Handler that logs its messages and waits for a permit before it replies to `upgrade`.
#[derive(Clone)]
struct Slow {
    permits: Arc<Semaphore>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Slow {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            log: Arc::default(),
        }
    }

    async fn call(self, request: Request<String>) -> Result<Reply<String>, BoxError> {
        let line = request.into_message();
        self.log.lock().unwrap().push(line.clone());
        if line == "upgrade" {
            self.permits.acquire().await?.forget();
        }
        Ok(upgrade_or_echo(line).await)
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

/// Opens a session of lines over the transport of `$peer`, with `$upgrade` and other layers.
macro_rules! open {
    ($io:expr, $upgrade:expr, $session:expr, $handler:expr) => {
        open!(
            $io,
            $upgrade,
            $session,
            $handler,
            tower::layer::util::Identity::new()
        )
    };
    ($io:expr, $upgrade:expr, $session:expr, $handler:expr, $layer:expr) => {{
        let (session, _task): (Session<String>, _) = getty::connect(connector(), $io, |link| {
            ServiceBuilder::new()
                .layer($upgrade)
                .layer(CodecLayer::new(lines()))
                .layer($layer)
                .layer(link)
                .layer($session)
                .service($handler)
        })
        .await
        .unwrap();
        session
    }};
}

/// A session that upgrades, for tests of the upgrade itself.
async fn session(layer: SessionLayer) -> (Session<String>, Peer) {
    let (io, peer) = stream();
    let upgrade = UpgradeLayer::new(shake::<Stream>);
    (open!(io, upgrade, layer, handle(upgrade_or_echo)), peer)
}

/// A session whose handler of `upgrade` waits for a permit.
async fn slow_session(layer: SessionLayer) -> (Session<String>, Peer, Slow) {
    let (io, peer) = stream();
    let slow = Slow::new();
    let handler = slow.clone();
    let session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>),
        layer,
        service_fn(move |request| handler.clone().call(request))
    );
    (session, peer, slow)
}

fn error<E: Copy + std::error::Error + 'static>(closed: &Closed) -> E {
    let source = closed.source.as_ref().expect("the end has a source");
    *source.downcast_ref().expect("of this type")
}

/// Waits for the close of a session whose upgrade fails. Returns its error.
async fn upgrade_error(session: &Session<String>) -> UpgradeError {
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    error(&closed)
}

#[tokio::test(start_paused = true)]
async fn a_session_continues_over_the_upgraded_transport() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("before\n");
    assert_eq!(soon(peer.line()).await, "before");
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+");
    assert!(soon(session.upgraded()).await);
    peer.send("AFTER\n");
    assert_eq!(soon(peer.line()).await, "+AFTER");
    session.close();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn a_client_upgrades_without_a_reply_once_the_go_ahead_has_arrived() {
    let (io, peer) = stream();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&heard);
    let session = open!(
        io,
        UpgradeLayer::new(async |mut io: Stream, _: ConnectionHandle| {
            io.write_all(b"+").await?;
            io.flush().await?;
            Ok::<_, BoxError>(Swapped(io))
        }),
        SessionLayer::new(),
        handle(move |line: String| {
            let go_ahead = line == "ready";
            log.lock().unwrap().push(line);
            if go_ahead {
                Reply::none().and_upgrade()
            } else {
                Reply::none()
            }
        })
    );
    session.send("upgrade".to_owned()).await.unwrap();
    peer.send("ready\n");
    assert!(soon(session.upgraded()).await);
    session.send("hello".to_owned()).await.unwrap();
    assert_eq!(peer.output(), "upgrade\n+HELLO\n");
    peer.send("WORLD\n");
    idle().await;
    assert_eq!(*heard.lock().unwrap(), ["ready", "world"]);
}

mod ends;
mod order;
mod stacks;
