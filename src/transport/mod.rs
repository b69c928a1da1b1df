//! What carries a connection's bytes or messages, as the session loop sees it.

mod boxed;

use std::{
    error::Error,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use getty_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;
use tower::BoxError;

pub use self::boxed::BoxTransport;

/// Whether a transport keeps the boundaries of what is sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// A stream of bytes: the codec finds the messages.
    Stream,
    /// Each unit of the transport is one message, and a bad one closes the session, unless `SessionLayer` is told
    /// otherwise. WebSocket is of this kind.
    Messages,
    /// Each unit of the transport is one message, and a bad one is skipped and counted, unless `SessionLayer` is told
    /// otherwise. UDP is of this kind.
    Datagrams,
}

/// What [`Transport::poll_recv`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// So many bytes were appended: more than none of a stream, or one message, which may be empty.
    Data(usize),
    /// So many bytes of the transport's own were received, such as a pong: the peer is there, and there is nothing for
    /// the codec.
    Control(usize),
    /// So many messages were lost before they could be given to the session, and are counted as skipped: a queue was
    /// full, or a datagram was truncated.
    Lost(u32),
    /// The peer has ended its direction; there is nothing more.
    End,
}

/// Why a peer ended both directions: see [`Transport::ended`].
#[derive(Debug)]
pub struct Ended {
    /// The reason that the session closes with.
    pub reason: CloseReason,
    /// What the peer said, or did wrong.
    pub source: BoxError,
}

/// What [`Transport::poll_send`] fails with when the protocol lets nothing more be sent, as after a WebSocket's close
/// frame. Senders learn it; handlers go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendsNoMore;

impl SendsNoMore {
    /// Whether `error` is this one.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(cause) if cause.is::<Self>())
    }
}

impl fmt::Display for SendsNoMore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing is sent after the end of the protocol")
    }
}

impl Error for SendsNoMore {}

impl From<SendsNoMore> for io::Error {
    fn from(error: SendsNoMore) -> Self {
        Self::new(io::ErrorKind::BrokenPipe, error)
    }
}

/// What carries a connection: a byte stream, or a transport that keeps message boundaries.
///
/// Everything that is `AsyncRead + AsyncWrite + Unpin` is a byte stream already. A message transport implements this
/// trait by itself. It is polled by the session loop alone, from one task at a time.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transport",
    label = "a transport is a byte stream (`AsyncRead + AsyncWrite + Unpin`) or a message transport; `Framed` is neither"
)]
pub trait Transport {
    /// Whether it keeps message boundaries. It is asked once, when the session opens.
    fn framing(&self) -> Framing;

    /// Appends what has arrived to `buf`: of a stream at most `limit` bytes, which fit the spare capacity of `buf`; else
    /// exactly one message, or nothing if what has arrived was the transport's own. Appends nothing unless it is ready.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>>;

    /// Takes bytes to send and says how many it took: of a stream some or all of `bufs`; else all of `bufs` as one
    /// message. It may hold them back until [`poll_flush`](Self::poll_flush). Fails with [`SendsNoMore`] once the
    /// protocol has its end: that is the end of the session only when the transport [says so](Self::ended).
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// How many bytes of what was taken have moved on, where it takes messages whole and they may be large: while a flush
    /// waits, the write timeout counts from the last progress. Any number that grows will do; none by default.
    fn written(&self) -> u64 {
        0
    }

    /// Hands all that was taken to the network.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The longest message that it can send, in bytes. A longer one fails where it is encoded, and none of it is sent.
    /// Asked for every message, and not of streams; without a bound by default.
    fn max_message(&self) -> usize {
        usize::MAX
    }

    /// Whether the next [`poll_recv`](Self::poll_recv) will be ready: what it gives is then handled before anything is
    /// flushed, so that the answers leave together. It may say `false` always, as it does by default.
    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    /// Whether something of the transport's own, such as the answer to a ping, waits for a flush: the session flushes it
    /// then, and the write timeout runs while the peer does not take it. `false` by default.
    #[inline]
    fn owes(&self) -> bool {
        false
    }

    /// Whether a message has begun to arrive and is not complete: a message transport's own part in the read timeout. Of a
    /// stream the codec's buffer tells; `false` by default.
    fn is_incomplete(&self) -> bool {
        false
    }

    /// Why the peer has ended its direction, where that is the end of both: asked once [`poll_recv`](Self::poll_recv) has
    /// said [`End`](Received::End) and all messages before that have been given to handlers. `None`, by default, is a
    /// half-close: answers are still sent, and the session ends as [`PeerClosed`](CloseReason::PeerClosed) after them.
    fn ended(&mut self) -> Option<Ended> {
        None
    }

    /// Whether it has a ping of its own. It is asked once, when the session loop begins; `false` by default.
    fn has_ping(&self) -> bool {
        false
    }

    /// Sends the transport's own ping, where it [has one](Self::has_ping). Flushed like anything else.
    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Whether our direction can end while the peer's goes on; `false` by default, and `true` for byte streams.
    fn can_finish(&self) -> bool {
        false
    }

    /// Ends our direction, where that [can be done](Self::can_finish). Called after a flush; nothing is sent after it, and
    /// [`poll_close`](Self::poll_close) follows in the end.
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Ends the connection the way its protocol wants: a TCP FIN, a TLS `close_notify`, a WebSocket close frame with the
    /// code for `reason`. Called after a flush; the transport is dropped afterwards.
    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>>;
}

/// A stream of bytes: what TLS and WebSocket are spoken over. Everything that can be read and written is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a byte stream",
    label = "TLS and WebSocket are spoken over one: `TlsLayer` goes outside of `WsLayer`, both outside of `CodecLayer`, and neither over datagrams"
)]
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for T {}

#[diagnostic::do_not_recommend]
impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {
    #[inline]
    fn framing(&self) -> Framing {
        Framing::Stream
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        let n = ready!(poll_read_buf(Pin::new(self), cx, &mut buf.limit(limit)))?;
        Poll::Ready(Ok(if n == 0 {
            Received::End
        } else {
            Received::Data(n)
        }))
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match bufs {
            [buf] => Pin::new(self).poll_write(cx, buf),
            bufs => Pin::new(self).poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    fn can_finish(&self) -> bool {
        true
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    #[inline]
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}
