//! The session loop's interface to a transport with its codec.

use bytes::BytesMut;
use getty_core::{
    HasSession, SessionIo,
    driver::{CodecId, Driver},
};
use tokio_util::codec::{Decoder, Encoder};
use tower::BoxError;

use super::catch::drop_catching_panics;
use crate::transport::Transport;

/// A transport with its codec and its session: receives and sends messages.
///
/// [`SessionIo`] implements it, if its codec decodes and can encode the handler's replies.
#[diagnostic::on_unimplemented(
    message = "`SessionLayer` needs a framed connection, got `{Self}`",
    label = "put a `CodecLayer` outside (before) `SessionLayer`, and layers that replace the transport outside `CodecLayer`"
)]
pub trait FramedTransport: HasSession<Out: Send + 'static> {
    /// Type of the decoded messages.
    type In;
    /// Type of the transport below the codec.
    type Io: Transport;

    /// Returns a reference to the transport.
    fn transport(&self) -> &Self::Io;

    /// Returns a mutable reference to the transport.
    fn transport_mut(&mut self) -> &mut Self::Io;

    /// Returns the session's driver.
    fn driver(&mut self) -> &mut Driver<Self::Out>;

    /// Returns the maximum number of undecoded bytes, unless the decoder reserves more for a frame.
    fn max_frame(&self) -> usize;

    /// Passes the maximum frame that was set for the session to the codec, after which
    /// [`max_frame`](Self::max_frame) may differ. The default is to ignore it.
    fn apply_max_frame(&mut self) {}

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

    /// Returns `Ok` if encoded bytes are a complete message. The default is `Ok`. A datagram of an
    /// endpoint is not: it needs the address of its peer as well.
    ///
    /// # Errors
    ///
    /// The reason why raw bytes cannot be sent.
    fn takes_raw(&self) -> Result<(), BoxError> {
        Ok(())
    }

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
    type Io = T;

    #[inline]
    fn transport(&self) -> &T {
        Self::transport(self)
    }

    #[inline]
    fn transport_mut(&mut self) -> &mut T {
        self.split_mut().0
    }

    #[inline]
    fn driver(&mut self) -> &mut Driver<Out> {
        self.split_mut().2
    }

    fn max_frame(&self) -> usize {
        Self::max_frame(self)
    }

    fn apply_max_frame(&mut self) {
        Self::apply_max_frame(self);
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

    #[inline(always)]
    fn discard(self) {
        Self::discard(self);
    }
}
