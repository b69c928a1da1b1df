//! The session loop's interface to a transport with its codec.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::BytesMut;
use getty_core::{
    CloseReason, HasSession, SessionIo,
    driver::{CodecId, Driver},
};
use tokio_util::codec::{Decoder, Encoder};
use tower::BoxError;

use super::catch::drop_catching_panics;
use crate::transport::{CloseCause, Framing, Received, Transport};

/// A transport with its codec and its session: receives and sends messages.
///
/// [`SessionIo`] implements it, if its codec decodes and can encode the handler's replies.
#[diagnostic::on_unimplemented(
    message = "`SessionLayer` needs a framed connection, got `{Self}`",
    label = "put a `CodecLayer` outside (before) `SessionLayer`"
)]
pub trait FramedTransport: HasSession<Out: Send + 'static> {
    /// Type of the decoded messages.
    type In;

    /// Returns the session's driver.
    fn driver(&mut self) -> &mut Driver<Self::Out>;

    /// Returns the maximum number of undecoded bytes, unless the decoder reserves more for a frame.
    fn max_frame(&self) -> usize;

    /// See [`Transport::framing`].
    fn framing(&self) -> Framing;

    /// Decodes the next message in `buf`. `end` is `true` at the end of a stream, and for the bytes
    /// of one message of a message transport.
    ///
    /// # Errors
    ///
    /// The codec's.
    fn decode(&mut self, buf: &mut BytesMut, end: bool) -> Result<Option<Self::In>, BoxError>;

    /// Returns the id that sessions with the same encoding share: see [`SessionIo::codec_id`]. The
    /// default is `None`.
    fn codec_id(&self) -> Option<CodecId> {
        None
    }

    /// Appends `message` to `buf`.
    ///
    /// # Errors
    ///
    /// The codec's.
    fn encode(&mut self, message: Self::Out, buf: &mut BytesMut) -> Result<(), BoxError>;

    /// See [`Transport::poll_recv`].
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>>;

    /// See [`Transport::poll_send`].
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// See [`Transport::poll_flush`].
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns `Ok` if encoded bytes are a complete message. The default is `Ok`. A datagram of an
    /// endpoint is not: it needs the address of its peer as well.
    ///
    /// # Errors
    ///
    /// The reason why raw bytes cannot be sent.
    fn takes_raw(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// See [`Transport::max_message`].
    fn max_message(&self) -> usize {
        usize::MAX
    }

    /// See [`Transport::has_more`].
    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    /// See [`Transport::bytes_flushed`].
    fn bytes_flushed(&self) -> u64 {
        0
    }

    /// See [`Transport::needs_flush`].
    #[inline]
    fn needs_flush(&self) -> bool {
        false
    }

    /// See [`Transport::is_incomplete`].
    fn is_incomplete(&self) -> bool {
        false
    }

    /// See [`Transport::take_close_reason`].
    fn take_close_reason(&mut self) -> Option<CloseCause> {
        None
    }

    /// See [`Transport::has_ping`].
    fn has_ping(&self) -> bool {
        false
    }

    /// See [`Transport::poll_ping`].
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// See [`Transport::can_finish`].
    fn can_finish(&self) -> bool {
        false
    }

    /// See [`Transport::poll_finish`].
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// See [`Transport::poll_close`].
    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>>;

    /// Drops the transport. A panic in a destructor is logged. A type that holds several values of
    /// the application must drop each inside a separate catch, as [`SessionIo::discard`] does: Rust
    /// aborts the process when one destructor panics during the unwinding of another.
    fn discard(self)
    where
        Self: Sized,
    {
        drop_catching_panics(self);
    }
}

/// A codec for a session that sends `Out`: an alias, which compiler errors name.
///
/// Implemented for every `Decoder` that is an `Encoder<Out>` and whose errors convert into
/// boxed errors.
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot encode `{Out}`, which the session is to send",
    label = "not a codec for `{Out}`: it must be a `Decoder` and an `Encoder<{Out}>`",
    note = "a session sends what its handler answers with, and what layers such as heartbeats send"
)]
pub trait SessionCodec<Out>:
    Decoder<Error: Into<BoxError>> + Encoder<Out, Error: Into<BoxError>>
{
}

#[diagnostic::do_not_recommend]
impl<C, Out> SessionCodec<Out> for C where
    C: Decoder<Error: Into<BoxError>> + Encoder<Out, Error: Into<BoxError>>
{
}

// Must be on one line, because compiler errors quote it.
impl<T: Transport, C: SessionCodec<Out>, Out: Send + 'static> FramedTransport
    for SessionIo<T, C, Out>
{
    type In = C::Item;

    #[inline]
    fn driver(&mut self) -> &mut Driver<Out> {
        self.split_mut().2
    }

    fn max_frame(&self) -> usize {
        Self::max_frame(self)
    }

    #[inline]
    fn framing(&self) -> Framing {
        self.transport().framing()
    }

    #[inline(always)]
    fn decode(&mut self, buf: &mut BytesMut, end: bool) -> Result<Option<C::Item>, BoxError> {
        let codec = self.split_mut().1;
        if end {
            codec.decode_eof(buf)
        } else {
            codec.decode(buf)
        }
        .map_err(Into::into)
    }

    fn codec_id(&self) -> Option<CodecId> {
        Self::codec_id(self)
    }

    #[inline(always)]
    fn encode(&mut self, message: Out, buf: &mut BytesMut) -> Result<(), BoxError> {
        self.split_mut().1.encode(message, buf).map_err(Into::into)
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        self.split_mut().0.poll_recv(cx, buf, limit)
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.split_mut().0.poll_send(cx, bufs)
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split_mut().0.poll_flush(cx)
    }

    fn max_message(&self) -> usize {
        self.transport().max_message()
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.transport().has_more()
    }

    fn bytes_flushed(&self) -> u64 {
        self.transport().bytes_flushed()
    }

    #[inline]
    fn needs_flush(&self) -> bool {
        self.transport().needs_flush()
    }

    #[inline]
    fn is_incomplete(&self) -> bool {
        self.transport().is_incomplete()
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        self.split_mut().0.take_close_reason()
    }

    fn has_ping(&self) -> bool {
        self.transport().has_ping()
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split_mut().0.poll_ping(cx)
    }

    fn can_finish(&self) -> bool {
        self.transport().can_finish()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split_mut().0.poll_finish(cx)
    }

    #[inline]
    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        self.split_mut().0.poll_close(cx, reason)
    }

    #[inline(always)]
    fn discard(self) {
        Self::discard(self);
    }
}
