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
    codec::{Frame, Frames, LengthDelimited, Lines},
    handle,
    handler::{Keyed, Router},
    hooks::HandleExt,
    layers::{CorrelateLayer, HeartbeatLayer, IdleTimeoutLayer},
    service_fn,
    transport::{BoxTransport, Framing, Prefixed},
    upgrade::{BytesBeforeUpgrade, Upgradable, UpgradeError, UpgradeLayer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Semaphore,
    time::Instant,
};
use tokio_test::{assert_pending, task};
use tokio_util::codec::{Decoder, Encoder, LinesCodec};

use crate::support::{
    connector, idle, lines, panic_message, soon,
    stream::{self, Peer, Stream},
    units,
    words::Words,
};

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
    let (io, peer) = stream::pair();
    let upgrade = UpgradeLayer::new(shake::<Stream>);
    (open!(io, upgrade, layer, handle(upgrade_or_echo)), peer)
}

/// A session whose handler of `upgrade` waits for a permit.
async fn slow_session(layer: SessionLayer) -> (Session<String>, Peer, Slow) {
    let (io, peer) = stream::pair();
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
    let (io, peer) = stream::pair();
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

// 1

/// Codec of lines that counts its calls.
#[derive(Clone)]
struct Counted(LinesCodec, Arc<AtomicUsize>);

impl Decoder for Counted {
    type Item = String;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<String>, BoxError> {
        self.1.fetch_add(1, SeqCst);
        Ok(self.0.decode(buf)?)
    }
}

impl Encoder<String> for Counted {
    type Error = BoxError;

    fn encode(&mut self, line: String, buf: &mut BytesMut) -> Result<(), BoxError> {
        Ok(self.0.encode(line, buf)?)
    }
}

#[tokio::test(start_paused = true)]
async fn from_the_moment_the_reply_is_taken_nothing_is_decoded() {
    let (io, peer) = stream::pair();
    let calls = Arc::new(AtomicUsize::new(0));
    let codec = Counted(lines(), Arc::clone(&calls));
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(codec))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(upgrade_or_echo))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let before = calls.load(SeqCst);
    peer.send("reset\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.source.unwrap().to_string(), "r is no handshake");
    assert_eq!(
        (calls.load(SeqCst), peer.output().as_str()),
        (before, "ready\n")
    );
}

// 2

#[tokio::test(start_paused = true)]
async fn undecoded_bytes_refuse_the_upgrade_before_the_go_ahead() {
    for pieces in [vec!["upgrade\nreset\n"], vec!["upgrade\n", "reset\n"]] {
        let (session, peer, slow) = slow_session(SessionLayer::new()).await;
        for piece in pieces {
            peer.send(piece);
            idle().await;
        }
        slow.permits.add_permits(1);
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), (0, 6));
        assert_eq!(closed.unhandled_bytes, 6);
        assert_eq!(closed.unsent_messages, 1, "the go-ahead");
        assert_eq!((peer.output().as_str(), peer.is_shut()), ("", true));
        assert_eq!(slow.log(), ["upgrade"]);
        assert!(!session.upgraded().await);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_decoded_ahead_refuse_the_upgrade_even_where_bytes_are_carried() {
    for (sent, expected) in [("reset\n", (1, 0)), ("rese", (0, 4))] {
        let (io, peer) = stream::pair();
        let slow = Slow::new();
        let handler = slow.clone();
        let session = open!(
            io,
            UpgradeLayer::carry(shake::<Prefixed<Stream>>),
            SessionLayer::new(),
            service_fn(move |request| handler.clone().call(request)),
            CorrelateLayer::new(Words)
        );
        peer.send("upgrade\n");
        idle().await;
        // A response may be behind other messages, so the session decodes ahead.
        let mut request = task::spawn(session.request::<String>("what".to_owned()));
        assert_pending!(request.poll());
        idle().await;
        peer.send(sent);
        idle().await;
        slow.permits.add_permits(1);
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), expected);
        assert_eq!(slow.log(), ["upgrade"]);
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_the_codec_holds_refuses_the_upgrade() {
    let (io, peer) = stream::pair();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::carry(shake::<Prefixed<Stream>>))
            .layer(CodecLayer::new(Frames::new(LengthDelimited::new())))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |frame: Frame| {
                count.fetch_add(1, SeqCst);
                Reply::one(frame).and_upgrade()
            }))
    })
    .await
    .unwrap();
    // The codec takes both frames out of the buffer when it decodes the first.
    peer.send(b"\0\0\0\x01a\0\0\0\x01b");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Decode);
    let BytesBeforeUpgrade { messages, .. } = error(&closed);
    assert_eq!((messages, handled.load(SeqCst)), (1, 1));
    assert_eq!((closed.unhandled_messages, peer.written()), (1, 0));
}

/// Opens a session over `Frames` whose handler upgrades with each frame.
macro_rules! frames {
    ($io:expr, $layer:expr) => {
        getty::connect(connector(), $io, |link| {
            ServiceBuilder::new()
                .layer($layer)
                .layer(CodecLayer::new(Frames::new(LengthDelimited::new())))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(|frame: Frame| match &*frame {
                    b"a" => Reply::one(frame).and_upgrade(),
                    _ => Reply::one(frame),
                }))
        })
        .await
        .unwrap()
        .0
    };
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_codec_keeps_behind_its_last_message_refuse_the_upgrade() {
    // The codec takes the begun frame out of the buffer together with the frame before.
    for begun in ["\0", "\0\0\0\x05", "\0\0\0\x05evil", "no header"] {
        let (io, peer) = stream::pair();
        let session = frames!(io, UpgradeLayer::new(shake::<Stream>));
        peer.send([b"\0\0\0\x01a", begun.as_bytes()].concat());
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), (0, begun.len()));
        assert_eq!(closed.unhandled_bytes, begun.len() as u64);
        assert_eq!(peer.written(), 0, "the go-ahead");
    }
}

#[tokio::test(start_paused = true)]
async fn carry_hands_bytes_over_that_the_codec_keeps_behind_its_last_message() {
    let sent = b"\0\0\0\x01a+\0\0\0\x02HI";
    for first in 6..sent.len() {
        let (io, peer) = stream::pair();
        let _session = frames!(io, UpgradeLayer::carry(shake::<Prefixed<Stream>>));
        // The first four bytes behind the request are no header of a frame.
        peer.send(&sent[..first]);
        peer.send(&sent[first..]);
        assert_eq!(soon(peer.bytes(sent.len())).await, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn carry_hands_undecoded_bytes_over() {
    let (io, peer) = stream::pair();
    let _session = open!(
        io,
        UpgradeLayer::carry(shake::<Prefixed<Stream>>),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n+HELLO\nWOR");
    peer.send("LD\n");
    assert_eq!(soon(peer.lines(3)).await, ["ready", "+HELLO", "WORLD"]);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_and_a_session_that_allows_several_refuse_the_upgrade() {
    let layer = SessionLayer::new().with_in_flight(2);
    let (session, peer, slow) = slow_session(layer.clone()).await;
    peer.send("upgrade\nupgrade\n");
    idle().await;
    session.try_send("queued".to_owned()).unwrap();
    idle().await;
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Decode);
    let BytesBeforeUpgrade {
        messages, bytes, ..
    } = error(&closed);
    assert_eq!((messages, bytes), (1, 0));
    assert_eq!(closed.unhandled_messages, 1, "the other call");
    assert_eq!(peer.output(), "queued\n");

    let (session, peer, slow) = slow_session(layer).await;
    peer.send("upgrade\n");
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(
        error::<UpgradeError>(&closed),
        UpgradeError::SeveralHandlers
    );
    assert_eq!(peer.output(), "");
}

// 3

#[tokio::test(start_paused = true)]
async fn all_queued_before_the_reply_leaves_before_the_first_byte_of_the_handshake() {
    let (io, peer) = stream::pair();
    let started = Arc::new(AtomicUsize::new(0));
    let starts = Arc::clone(&started);
    let upgrade = move |io: Stream, handle| {
        starts.fetch_add(1, SeqCst);
        shake(io, handle)
    };
    let slow = Slow::new();
    let handler = slow.clone();
    let session = open!(
        io,
        UpgradeLayer::new(upgrade),
        SessionLayer::new().with_watermarks(1, 1),
        service_fn(move |request| handler.clone().call(request))
    );
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    let pushes: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for push in &pushes {
        session.try_send(push.clone()).unwrap();
    }
    idle().await;
    assert!(session.queued() > 10, "the watermark stops the encoder");
    slow.permits.add_permits(1);
    idle().await;
    peer.send("+");
    let mut later = task::spawn(session.send("later".to_owned()));
    assert_pending!(later.poll());
    idle().await;
    assert_eq!((started.load(SeqCst), peer.written()), (0, 0));
    peer.take_all();
    assert_eq!(soon(peer.lines(20)).await, pushes);
    assert_eq!(soon(peer.line()).await, "ready");
    soon(later).await.unwrap();
    assert_eq!(soon(peer.line()).await, "+LATER");
    assert_eq!(started.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_that_the_handler_queues_leave_before_its_reply() {
    let (io, peer) = stream::pair();
    let _session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>),
        SessionLayer::new(),
        handle(|line: String, session: Session<String>| {
            session.try_send("own".to_owned()).unwrap();
            Reply::one(line).and_upgrade()
        })
    );
    peer.send("upgrade\n");
    assert_eq!(soon(peer.lines(2)).await, ["own", "upgrade"]);
}

#[tokio::test(start_paused = true)]
async fn handshake_begins_after_the_flush() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.hold_flush();
    peer.send("upgrade\n");
    idle().await;
    peer.send("+");
    idle().await;
    assert_eq!(peer.unread(), 1, "not read before the flush");
    peer.release_flush();
    assert!(soon(session.upgraded()).await);
}

// 4

#[tokio::test(start_paused = true)]
async fn messages_sent_after_the_reply_wait_and_leave_upgraded() {
    let (session, peer) = session(SessionLayer::new().with_queue(2)).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let mut sends: Vec<_> = ["a", "b", "c"]
        .map(|text| task::spawn(session.send(text.to_owned())))
        .into();
    for send in &mut sends {
        assert_pending!(send.poll());
        idle().await;
    }
    assert_eq!((peer.output().as_str(), session.queued()), ("ready\n", 2));
    peer.send("+");
    idle().await;
    for send in sends {
        soon(send).await.unwrap();
    }
    assert_eq!(peer.output(), "ready\n+A\nB\nC\n");
}

#[tokio::test(start_paused = true)]
async fn send_resolves_by_the_flush_of_the_upgraded_transport() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let mut send = task::spawn(session.send("a".to_owned()));
    assert_pending!(send.poll());
    peer.send("+");
    // The function flushes `+`, and the session its message.
    idle().await;
    assert_eq!(peer.output(), "ready\n+A\n");
    soon(send).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_plain_byte_follows_a_failed_upgrade() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    session.try_send("secret".to_owned()).unwrap();
    let mut send = task::spawn(session.send("other".to_owned()));
    assert_pending!(send.poll());
    peer.send("-");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.unsent_messages, 2);
    soon(send).await.unwrap_err();
    assert_eq!(peer.output(), "ready\n");
    assert!(session.try_send("late".to_owned()).is_err());
}

#[tokio::test(start_paused = true)]
async fn no_plain_byte_follows_a_panic_of_the_upgrade() {
    let (io, peer) = stream::pair();
    let session = open!(
        io,
        UpgradeLayer::new(|_: Stream, _| async {
            panic!("a bad function") as Result<Stream, BoxError>
        }),
        SessionLayer::new(),
        handle(move |line: String, session: Session<String>| {
            let late = session.clone();
            tokio::spawn(async move { late.send("secret".to_owned()).await });
            Reply::one(line).and_upgrade()
        })
    );
    peer.hold_flush();
    peer.send("upgrade\n");
    idle().await;
    peer.release_flush();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(panic_message(closed.source.as_ref()), "a bad function");
    assert_eq!(peer.output(), "upgrade\n");
}

// 5

#[tokio::test(start_paused = true)]
async fn handshake_that_takes_ten_seconds_closes_as_handshake_timeout() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let start = Instant::now();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    let timeout = 10 * SECOND;
    assert_eq!(start.elapsed().as_secs(), timeout.as_secs());
    assert_eq!(
        error::<UpgradeError>(&closed),
        UpgradeError::TimedOut(timeout)
    );
}

// 6

#[tokio::test(start_paused = true)]
async fn idle_timeouts_and_heartbeats_wait_during_the_handshake() {
    let (io, peer) = stream::pair();
    let session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>).with_timeout(60 * SECOND),
        SessionLayer::new(),
        handle(upgrade_or_echo),
        ServiceBuilder::new()
            .layer(IdleTimeoutLayer::new(5 * SECOND))
            .layer(HeartbeatLayer::new(2 * SECOND, |_: &Session<String>| {
                "beat".to_owned()
            }))
            .into_inner()
    );
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    tokio::time::sleep(30 * SECOND).await;
    assert!(!session.is_closing());
    peer.send("+");
    assert!(soon(session.upgraded()).await);
    let start = Instant::now();
    assert_eq!(soon(peer.line()).await, "+BEAT");
    let closed = soon(session.closed()).await;
    let reasons = [CloseReason::IdleTimeout, CloseReason::HeartbeatMissed];
    assert!(reasons.contains(&closed.reason), "{closed}");
    assert!(start.elapsed() >= 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_handshake_at_once_and_callbacks_run_once() {
    let (session, peer) = session(SessionLayer::new()).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    session.add_close_callback("test", (), move |_| {
        counted.fetch_add(1, SeqCst);
    });
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    session.try_send("secret".to_owned()).unwrap();
    idle().await;
    let start = Instant::now();
    session.close();
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, start.elapsed()),
        (CloseReason::Local, Duration::ZERO)
    );
    assert_eq!((peer.output().as_str(), peer.is_gone()), ("ready\n", true));
    assert_eq!((calls.load(SeqCst), closed.unsent_messages), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn close_before_the_handshake_flushes_the_reply_and_nothing_else() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    session.try_send("secret".to_owned()).unwrap();
    idle().await;
    session.close();
    idle().await;
    peer.take_all();
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, closed.unsent_messages),
        (CloseReason::Local, 1)
    );
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n", true));
}

#[tokio::test(start_paused = true)]
async fn reply_of_a_session_that_closes_is_sent_without_an_upgrade() {
    let (session, peer, slow) = slow_session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    idle().await;
    session.close();
    idle().await;
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n", true));
}

#[tokio::test(start_paused = true)]
async fn peer_that_takes_no_reply_ends_at_the_write_timeout() {
    let (session, peer) = session(SessionLayer::new().with_write_timeout(SECOND)).await;
    peer.stall();
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, peer.output().as_str()),
        (CloseReason::WriteTimeout, "")
    );
}

#[tokio::test(start_paused = true)]
async fn write_error_before_the_handshake_ends_the_session() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    peer.fail_writes(io::ErrorKind::BrokenPipe);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Io);
}

// 7

#[tokio::test(start_paused = true)]
async fn handle_attributes_callbacks_and_statistics_stay() {
    let (session, peer) = session(SessionLayer::new()).await;
    let id = session.id();
    session.insert(42_u32);
    let (ended, end) = tokio::sync::oneshot::channel();
    session.once_closed(move |closed| ended.send(closed.clone()).unwrap());
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
    assert_eq!((session.id(), session.get::<u32>()), (id, Some(42)));
    peer.finish();
    let closed = soon(end).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    let stats = closed.stats;
    assert_eq!((stats.messages_in, stats.messages_out), (2, 2));
    // The bytes of the handshake are not counted.
    assert_eq!((stats.bytes_in, stats.bytes_out), (14, 12));
}

#[tokio::test(start_paused = true)]
async fn settings_that_the_handler_of_the_request_changes_hold_after_the_upgrade() {
    let (io, peer) = stream::pair();
    let (_session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(Lines::new().with_max_length(10)).with_settable_max_frame())
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(async |line: String, session: Session<String>| {
                if line == "upgrade" {
                    assert!(session.set_max_frame(100));
                }
                upgrade_or_echo(line).await
            }))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let long = "X".repeat(100);
    peer.send(format!("+{long}\n"));
    assert_eq!(soon(peer.line()).await, format!("+{long}"));
}

// 8

#[tokio::test(start_paused = true)]
async fn transports_with_message_boundaries_are_refused() {
    let (io, peer) = stream::pair();
    let session = open!(
        io,
        UpgradeLayer::new(async |_: Stream, _: ConnectionHandle| {
            Ok::<_, BoxError>(units::pair(Framing::Messages).0)
        }),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::NotAStream);
}

// 9

#[tokio::test(start_paused = true)]
async fn second_upgrade_fails() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+");
    assert!(soon(session.upgraded()).await);
    peer.send("UPGRADE\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::Repeated);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n+", true));
}

#[tokio::test(start_paused = true)]
async fn upgrade_without_the_layer_fails() {
    let (io, peer) = stream::pair();
    let session = open!(
        BoxTransport::new(io),
        tower::layer::util::Identity::new(),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.reason.as_str(), "upgrade_failed");
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::Unsupported);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("", true));
}

#[tokio::test(start_paused = true)]
async fn upgrade_after_the_end_of_this_direction_fails() {
    let (io, peer) = stream::pair();
    let session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.stay_open();
    session.finish().await.unwrap();
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::Finished);
}

// 10

#[tokio::test(start_paused = true)]
async fn pending_end_of_the_peer_refuses_the_upgrade() {
    let (session, peer, slow) = slow_session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    peer.finish();
    idle().await;
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::PeerFinished);
    assert_eq!(peer.output(), "");
}

// Stacks

/// Line that a router can route.
struct Line(String);

impl Keyed for Line {
    type Key = str;

    fn key(&self) -> &str {
        &self.0
    }
}

#[tokio::test(start_paused = true)]
async fn route_of_a_router_upgrades() {
    let (io, peer) = stream::pair();
    let router = Router::new()
        .route("upgrade", |_: Line| {
            Reply::one("ready".to_owned()).and_upgrade()
        })
        .route("hello", |line: Line| line.0);
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::new())
            .map_request(|request: Request<String>| request.map(Line))
            .service(router)
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
    drop(session);
}

#[tokio::test(start_paused = true)]
async fn stack_of_a_session_upgrades() {
    let (io, peer) = stream::pair();
    let (_session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service_fn(async |_: Session<String>| Ok::<_, BoxError>(handle(upgrade_or_echo)))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
}

#[tokio::test]
async fn boxed_transport_forwards_the_upgrade() {
    let (io, peer) = stream::pair();
    let captured: Arc<Mutex<Option<BoxTransport>>> = Arc::default();
    let taken = Arc::clone(&captured);
    let mut stack = ServiceBuilder::new()
        .layer(UpgradeLayer::new(shake::<Stream>))
        .service_fn(move |connection: getty::Connection<Upgradable<_, _>>| {
            let (io, _rest) = connection.take_transport();
            *taken.lock().unwrap() = Some(BoxTransport::new(io));
            async { Ok::<_, BoxError>(()) }
        });
    let connection = getty::Connection::new(io);
    let handle = connection.handle().clone();
    getty::Service::call(&mut stack, connection).await.unwrap();
    let mut io = captured.lock().unwrap().take().unwrap();
    io.check_upgrade(b"").unwrap();
    assert_eq!(
        io.check_upgrade(b"x").unwrap_err().reason,
        CloseReason::Decode
    );
    peer.send("+");
    poll_fn(|cx| io.poll_upgrade(cx, &handle, &mut BytesMut::new()))
        .await
        .unwrap();
    assert!(io.check_upgrade(b"").is_err(), "upgraded already");
}
