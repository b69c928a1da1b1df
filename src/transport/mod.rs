//! Traits and types of transports. A transport carries the bytes or messages of a connection.

mod boxed;
#[cfg(test)]
mod forwarding;
mod handshake;
mod prefixed;

use std::{
    error::Error,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
pub use getty_core::driver::{CodecId, SharedForm};
use getty_core::{CloseReason, ConnectionHandle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;
use tower::BoxError;

pub(crate) use self::handshake::{Interrupted, shutdown_and_linger, uninterrupted};
pub use self::{boxed::BoxTransport, handshake::HandshakeFuture, prefixed::Prefixed};
use crate::upgrade::UpgradeError;

/// Kind of a transport: with or without message boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// A byte stream. The codec finds the messages.
    Stream,
    /// Each unit of the transport is one message. An invalid message closes the session unless
    /// `SessionLayer` sets otherwise. WebSocket is of this kind.
    Messages,
    /// Each unit of the transport is one message. An invalid message is skipped and counted unless
    /// `SessionLayer` sets otherwise. UDP is of this kind.
    Datagrams,
}

/// Result of [`Transport::poll_recv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// This many bytes were appended. On a stream it is at least one byte. Otherwise it is one
    /// message, which may be empty.
    Data(usize),
    /// This many bytes of the transport's protocol were received, such as a pong. The peer is
    /// alive, but the codec receives nothing.
    Control(usize),
    /// This many messages were lost before the session could receive them and are counted as
    /// skipped: a queue was full, or a datagram was truncated.
    Lost(u32),
    /// The peer has ended its direction. Nothing more will arrive.
    End,
    /// The input violates the transport's protocol and cannot be decoded any further. Messages
    /// that have arrived are handled, and an incomplete one is dropped. The session then closes
    /// with the reason of [`Transport::take_close_reason`], which must exist. Later reads are
    /// discarded, so the transport may return input as it is.
    Invalid,
}

/// Reason and error with which a transport ends; see [`Transport::take_close_reason`].
#[derive(Debug)]
pub struct CloseCause {
    /// The reason that the session closes with.
    pub reason: CloseReason,
    /// The peer's close message, or the error that ended the transport.
    pub source: BoxError,
}

/// Error of [`Transport::poll_send`] once the protocol allows no more messages, as after a
/// WebSocket close frame. Senders receive it. Handlers continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteClosed;

impl WriteClosed {
    /// Returns `true` if `error` is a `WriteClosed`.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(cause) if cause.is::<Self>())
    }
}

impl fmt::Display for WriteClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the transport allows no more messages to be sent")
    }
}

impl Error for WriteClosed {}

impl From<WriteClosed> for io::Error {
    fn from(error: WriteClosed) -> Self {
        Self::new(io::ErrorKind::BrokenPipe, error)
    }
}

/// Transport of a connection: a byte stream, or a transport that keeps message boundaries.
///
/// Every `AsyncRead + AsyncWrite + Unpin` is a byte stream and implements this trait. A message
/// transport must implement it explicitly. Only the session loop polls a transport, from one
/// task at a time.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transport",
    label = "a transport is a byte stream (`AsyncRead + AsyncWrite + Unpin`) or a message transport; `SessionIo` is neither"
)]
pub trait Transport {
    /// Returns the kind of message boundaries. It is called once, when the session opens.
    fn framing(&self) -> Framing;

    /// Appends received data to `buf`. On a stream these are at most `limit` bytes, which fit the
    /// spare capacity of `buf`. Otherwise it is exactly one message, or nothing if only data of the
    /// transport's protocol has arrived. A call that is not ready must not append anything.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>>;

    /// Takes bytes to send and returns their number. A stream takes some or all of `bufs`. Any
    /// other transport takes all of `bufs` as one message. The transport may buffer them until
    /// [`poll_flush`](Self::poll_flush).
    ///
    /// It fails with [`WriteClosed`] once the protocol has ended. This closes the session only if
    /// [`take_close_reason`](Self::take_close_reason) returns a reason.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Returns the form in which this transport sends a message that many sessions share. A
    /// transport has a form if it converts the encoded message first, for example by compression.
    /// The message is [prepared](Self::prepare) once for all transports of the same form, which
    /// must convert it to the same bytes. The default is `None`: messages are passed to
    /// [`poll_send`](Self::poll_send).
    #[inline]
    fn shared_form(&self) -> Option<SharedForm> {
        None
    }

    /// Prepares an encoded message that many sessions share, for
    /// [`poll_send_prepared`](Self::poll_send_prepared) of each transport with the same
    /// [form](Self::shared_form). The default is empty.
    fn prepare(&mut self, message: &[u8]) -> Bytes {
        let _ = message;
        Bytes::new()
    }

    /// Takes `bufs` as one message, as [`poll_send`](Self::poll_send) does. `prepared` is the same
    /// message as it was [prepared](Self::prepare). Returns the length of `bufs`. The default
    /// ignores `prepared`.
    fn poll_send_prepared(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        let _ = prepared;
        self.poll_send(cx, bufs)
    }

    /// Returns the number of bytes that have left the transport's buffer. A transport that takes
    /// large messages whole should implement it. While a flush is pending, the write timeout counts
    /// from the last increase. The value may start anywhere. The default is a constant 0.
    fn bytes_flushed(&self) -> u64 {
        0
    }

    /// Passes all taken bytes on to the network.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns the maximum length in bytes of a message that can be sent. A longer message fails
    /// when it is encoded, and no part of it is sent. It is called for every message except on
    /// streams. The default is no limit.
    fn max_message(&self) -> usize {
        usize::MAX
    }

    /// Returns `true` if the next [`poll_recv`](Self::poll_recv) will be ready. The session then
    /// handles that data before it flushes so that replies leave together. An implementation may
    /// always return `false`, which is the default.
    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    /// Returns `true` if the transport has buffered output of its protocol, such as a pong. The
    /// session will flush it, and the write timeout runs until the peer takes it. The default is
    /// `false`.
    #[inline]
    fn needs_flush(&self) -> bool {
        false
    }

    /// Returns `true` if a message has begun to arrive and is incomplete. Message transports report
    /// it for the read timeout; for streams the session checks the codec's buffer. The default is
    /// `false`.
    fn is_incomplete(&self) -> bool {
        false
    }

    /// Returns the reason for a close of both directions, once. It is called after
    /// [`poll_recv`](Self::poll_recv) has returned [`End`](Received::End) or
    /// [`Invalid`](Received::Invalid), and handlers have received all earlier messages.
    ///
    /// `None`, the default, is a half-close. Replies are still sent, and the session then closes as
    /// [`PeerClosed`](CloseReason::PeerClosed).
    fn take_close_reason(&mut self) -> Option<CloseCause> {
        None
    }

    /// Returns `true` if the protocol has a ping. It is called once, when the session loop starts.
    /// The default is `false`.
    fn has_ping(&self) -> bool {
        false
    }

    /// Sends a ping of the protocol if it [has one](Self::has_ping). A ping is flushed like a
    /// message.
    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Returns `true` if the outgoing direction can end while the incoming one continues. The
    /// default is `false`. It is `true` for byte streams.
    fn can_finish(&self) -> bool {
        false
    }

    /// Ends the outgoing direction if that is [supported](Self::can_finish). It is called after a
    /// flush. Nothing is sent afterwards, and [`poll_close`](Self::poll_close) follows at the end.
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Checks whether the transport can be [upgraded](Self::poll_upgrade) now. The session has read
    /// `undecoded` bytes and not decoded them. It calls this method once, when a handler requests
    /// the upgrade, before it sends the reply.
    ///
    /// # Errors
    ///
    /// Returns the reason and the error that the session closes with. The default is
    /// [`UpgradeFailed`](CloseReason::UpgradeFailed) with [`UpgradeError::Unsupported`].
    fn check_upgrade(&self, undecoded: &[u8]) -> Result<(), CloseCause> {
        let _ = undecoded;
        Err(UpgradeError::Unsupported.into())
    }

    /// Upgrades the transport, for example to TLS, after [`check_upgrade`](Self::check_upgrade) has
    /// returned `Ok`. All output is flushed before the first call. Until it is ready, the session
    /// calls no other method except [`poll_close`](Self::poll_close). The transport must take all
    /// `undecoded` bytes, must limit the time and must keep its [framing](Self::framing).
    ///
    /// If it fails, nothing may be sent any more, and the session closes with the returned cause.
    /// The default fails.
    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        handle: &ConnectionHandle,
        undecoded: &mut BytesMut,
    ) -> Poll<Result<(), CloseCause>> {
        let _ = (cx, handle, undecoded);
        Poll::Ready(Err(UpgradeError::Unsupported.into()))
    }

    /// Closes the connection as its protocol requires: with a TCP FIN, a TLS `close_notify`, or a
    /// WebSocket close frame with the code for `reason`. It is called after a flush. The transport
    /// is dropped afterwards.
    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>>;
}

/// Byte stream that TLS and WebSocket can run over. Every `AsyncRead + AsyncWrite` with the
/// bounds below is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a byte stream",
    label = "this layer needs a byte stream: `TlsLayer` belongs outside `WsLayer`, both outside `CodecLayer`, and neither over datagrams; `WsLayer`, `CompressionLayer`, `StartTlsLayer` and `UpgradeLayer` return no byte stream"
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
