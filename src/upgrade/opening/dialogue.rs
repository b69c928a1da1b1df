//! The dialogue itself: reads, writes, TLS, and the end.

use std::{fmt, mem};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty_core::{Connection, ConnectionHandle, hooks::Contained};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::BoxError;

use super::error::OpeningError;
use crate::{
    codec::{Decoder, Encoder, reclaim},
    transport::{ByteStream, Prefixed, shutdown_and_linger},
};
#[cfg(feature = "tls")]
use crate::{tls::TlsStream, upgrade::StartTls};

/// Room for one read, in bytes. A dialogue has short messages.
const READ: usize = 4 * 1024;

/// Dialogue with the peer before the session, over the transport `T` with the codec `C`.
///
/// The function of an [`OpeningLayer`](super::OpeningLayer) or an
/// [`OpeningConnectLayer`](super::OpeningConnectLayer) receives it. It ends the dialogue with
/// one of these methods and returns the connection:
///
/// | method | bytes read ahead | transport of the connection |
/// |---|---|---|
/// | [`carry`](Self::carry) | are read by the session | `Prefixed<T>` |
/// | [`into_connection`](Self::into_connection) | are an error | `T` |
///
/// Branches that end with different transports need one common type. Each may map its transport
/// into a [`BoxTransport`](crate::BoxTransport). Without that, the compiler's error may be an
/// overflow for `Prefixed<_>`.
///
/// Dropped, it closes the connection.
pub struct Opening<T, C> {
    // Must be declared first, because the transport is dropped before the rest.
    connection: Connection<T>,
    codec: Contained<C>,
    /// Received bytes that were not decoded.
    buffer: BytesMut,
    /// Encoded bytes that the transport has not taken. They remain if a send is dropped.
    output: BytesMut,
    max_frame: usize,
    /// The peer has ended its direction.
    ended: bool,
    /// The codec returned a message last. Such a codec may have taken more bytes than it returned.
    decoded: bool,
}

impl<T, C> Opening<T, C> {
    pub(super) fn new(connection: Connection<T>, codec: Contained<C>, max_frame: usize) -> Self {
        Self {
            connection,
            codec,
            buffer: BytesMut::new(),
            output: BytesMut::new(),
            max_frame,
            ended: false,
            decoded: false,
        }
    }

    /// Returns the connection's handle. Its attributes are those of the session.
    pub const fn handle(&self) -> &ConnectionHandle {
        self.connection.handle()
    }

    /// Returns a reference to the transport.
    pub const fn transport(&self) -> &T {
        self.connection.transport()
    }

    /// Returns a reference to the codec.
    pub const fn codec(&self) -> &C {
        self.codec.get_ref()
    }

    /// Returns a mutable reference to the codec.
    pub const fn codec_mut(&mut self) -> &mut C {
        self.codec.get_mut()
    }

    /// Returns the bytes that were received and not decoded.
    #[must_use]
    pub fn read_ahead(&self) -> &[u8] {
        &self.buffer
    }
}

impl<T, C> Opening<T, C>
where
    T: ByteStream,
    C: Decoder<Error: Into<BoxError>> + 'static,
{
    /// Receives the next message. Returns `None` if the peer has ended its direction.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::Decode`], [`OpeningError::FrameTooLong`] or [`OpeningError::Io`].
    /// The dialogue cannot continue afterwards.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. A part of a message stays buffered.
    pub async fn receive(&mut self) -> Result<Option<C::Item>, OpeningError> {
        loop {
            // also before an end: see "Writing a codec" in `codec`
            if let Some(item) = self.decode()? {
                return Ok(Some(item));
            }
            if self.ended {
                let rest = self.codec.decode_eof(&mut self.buffer);
                return rest.map_err(OpeningError::decode);
            }
            self.fill().await?;
        }
    }

    fn decode(&mut self) -> Result<Option<C::Item>, OpeningError> {
        let decoded = self.codec.decode(&mut self.buffer);
        self.decoded = matches!(decoded, Ok(Some(_)));
        decoded.map_err(OpeningError::decode)
    }

    /// Receives exactly as many bytes as `bytes` has, without the codec. It must not follow a
    /// [`receive`](Self::receive) that was dropped, because the codec may have seen these bytes.
    ///
    /// It is for formats that a codec cannot find, such as an answer of one byte. Bytes behind
    /// them stay [read ahead](Self::read_ahead).
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::PeerClosed`] if the peer ends its direction first,
    /// [`OpeningError::FrameTooLong`] if `bytes` exceeds the maximum, and [`OpeningError::Io`].
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. It takes either all bytes or none.
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), OpeningError> {
        self.reclaim()?;
        while self.buffer.len() < bytes.len() {
            if self.ended {
                return Err(OpeningError::PeerClosed);
            }
            self.fill().await?;
        }
        self.buffer.copy_to_slice(bytes);
        Ok(())
    }

    /// Reads more bytes, or records the end of the peer's direction.
    async fn fill(&mut self) -> Result<(), OpeningError> {
        let room = self.max_frame.saturating_sub(self.buffer.len());
        if room == 0 {
            return Err(OpeningError::FrameTooLong(self.max_frame));
        }
        self.buffer.reserve(room.min(READ));
        let mut limited = (&mut self.buffer).limit(room);
        let read = self
            .connection
            .transport_mut()
            .read_buf(&mut limited)
            .await?;
        self.ended = read == 0;
        Ok(())
    }

    /// Sends a message and flushes it.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::Encode`] or [`OpeningError::Io`]. After the former nothing was
    /// sent, and another message may be.
    ///
    /// # Cancel safety
    ///
    /// A message whose send is dropped may be sent in part. The rest is sent before the next one.
    pub async fn send<M>(&mut self, message: M) -> Result<(), OpeningError>
    where
        C: Encoder<M, Error: Into<BoxError>>,
    {
        let start = self.output.len();
        if let Err(error) = self.codec.encode(message, &mut self.output) {
            self.output.truncate(start);
            return Err(OpeningError::encode(error));
        }
        self.flush().await
    }

    /// Sends bytes without the codec and flushes them.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::Io`].
    ///
    /// # Cancel safety
    ///
    /// Bytes whose send is dropped may be sent in part. The rest is sent before the next message.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), OpeningError> {
        self.output.extend_from_slice(bytes);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), OpeningError> {
        let io = self.connection.transport_mut();
        // It keeps the bytes that were not taken if it is dropped.
        io.write_all_buf(&mut self.output).await?;
        Ok(io.flush().await?)
    }

    /// Replaces the codec by the result of `f` for the rest of the dialogue. It decodes the bytes
    /// that were read ahead.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::CodecReadAhead`].
    pub fn map_codec<D>(mut self, f: impl FnOnce(C) -> D) -> Result<Opening<T, D>, OpeningError> {
        self.reclaim()?;
        Ok(Opening {
            connection: self.connection,
            codec: Contained::new(f(self.codec.into_inner())),
            buffer: self.buffer,
            output: self.output,
            max_frame: self.max_frame,
            ended: self.ended,
            decoded: false,
        })
    }

    /// Runs a TLS handshake and continues the dialogue over TLS, with the same codec. The server
    /// passes a [`TlsLayer`](crate::tls::TlsLayer), the client a
    /// [`TlsConnectLayer`](crate::tls::TlsConnectLayer) with a
    /// [name](crate::tls::TlsConnectLayer::with_server_name).
    ///
    /// Both the deadline of the dialogue and the layer's own apply. Afterwards the handle has a
    /// [`TlsInfo`](crate::tls::TlsInfo).
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::Tls`] if the handshake fails.
    ///
    /// Returns [`OpeningError::ReadAhead`] or [`OpeningError::CodecReadAhead`] if the peer has sent
    /// more than the messages that were received. Such bytes are not encrypted and would count as
    /// part of the encrypted dialogue. An attacker could inject commands in this way. So a peer
    /// must not send its first TLS message before it has received the answer.
    #[cfg(feature = "tls")]
    pub async fn start_tls(
        mut self,
        tls: &impl StartTls,
    ) -> Result<Opening<TlsStream<T>, C>, OpeningError> {
        self.flush().await?;
        self.refuse_read_ahead()?;
        let connection = tls.start_tls(self.connection).await?;
        Ok(Opening::new(connection, self.codec, self.max_frame))
    }

    /// Ends the dialogue. The session reads the bytes that were read ahead, and then the transport.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::CodecReadAhead`], or [`OpeningError::Unsent`] after a send that was
    /// dropped.
    pub fn carry(mut self) -> Result<Connection<Prefixed<T>>, OpeningError> {
        self.reclaim()?;
        self.check_sent()?;
        let prefix = if self.buffer.is_empty() {
            Bytes::new()
        } else {
            self.buffer.freeze()
        };
        let connection = self.connection;
        Ok(connection.map_transport(|io| Prefixed::new(io, prefix)))
    }

    /// Ends the dialogue at exactly this byte.
    ///
    /// # Errors
    ///
    /// Returns [`OpeningError::ReadAhead`] or [`OpeningError::CodecReadAhead`] if the peer has sent
    /// more than the messages that were received, or [`OpeningError::Unsent`] after a send that was
    /// dropped.
    pub fn into_connection(mut self) -> Result<Connection<T>, OpeningError> {
        self.refuse_read_ahead()?;
        self.check_sent()?;
        Ok(self.connection)
    }

    /// Puts bytes that the codec has taken ahead back into the buffer.
    fn reclaim(&mut self) -> Result<(), OpeningError> {
        // Once is enough: only `decode` takes bytes out of the buffer.
        if mem::take(&mut self.decoded) {
            reclaim(&mut *self.codec, &mut self.buffer)
                .map_err(|_| OpeningError::CodecReadAhead)?;
        }
        Ok(())
    }

    fn refuse_read_ahead(&mut self) -> Result<(), OpeningError> {
        self.reclaim()?;
        match self.buffer.len() {
            0 => Ok(()),
            bytes => Err(OpeningError::ReadAhead(bytes)),
        }
    }

    fn check_sent(&self) -> Result<(), OpeningError> {
        match self.output.len() {
            0 => Ok(()),
            bytes => Err(OpeningError::Unsent(bytes)),
        }
    }

    /// Sends a last message, shuts down as [`shutdown`](Self::shutdown) does, and returns `cause`
    /// for the function to return.
    ///
    /// An error of the send is dropped, because the refusal has a cause already.
    ///
    /// ```
    /// use getty::{BoxError, Connection, codec::Lines, transport::ByteStream, upgrade::Opening};
    ///
    /// async fn login<T: ByteStream>(
    ///     mut dialogue: Opening<T, Lines>,
    /// ) -> Result<Connection<T>, BoxError> {
    ///     match dialogue.receive().await?.as_deref() {
    ///         Some("ada") => Ok(dialogue.into_connection()?),
    ///         _ => Err(dialogue.refuse("who are you?", "an unknown user").await),
    ///     }
    /// }
    /// # let _ = login::<tokio::net::TcpStream>;
    /// ```
    pub async fn refuse<M>(mut self, message: M, cause: impl Into<BoxError>) -> BoxError
    where
        C: Encoder<M, Error: Into<BoxError>>,
    {
        if self.send(message).await.is_ok() {
            self.shutdown().await;
        }
        cause.into()
    }

    /// Ends our direction, then reads until the peer closes, for at most a second and 256 KiB.
    ///
    /// Without it, a close may reset the connection and destroy the last message on its way.
    /// Dropping the dialogue closes the connection at once.
    pub async fn shutdown(self) {
        let mut connection = self.connection;
        // An error means that the peer is gone.
        let _ = shutdown_and_linger(connection.transport_mut()).await;
    }
}

// The buffers may contain what a peer sent in confidence, such as a password.
impl<T: fmt::Debug, C: fmt::Debug> fmt::Debug for Opening<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("connection", &self.connection)
            .field("codec", &self.codec)
            .field("read_ahead_len", &self.buffer.len())
            .finish_non_exhaustive()
    }
}
