//! WebSocket as a transport of the session loop. It keeps message boundaries.

mod assembler;
mod close_handshake;
mod mask;
mod reader;
mod settings;
mod stream;
mod writer;

use std::{
    fmt,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use getty_core::{CloseReason, driver::SharedForm};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::settings::{Limits, Role, TransportSettings};
use self::{
    assembler::Event,
    close_handshake::CloseHandshake,
    reader::{FrameReader, Read},
    writer::FrameWriter,
};
pub use self::{settings::DEFAULT_MAX_MESSAGE, stream::WsStream};
use super::{
    close::WsClose,
    deflate::PerMessage,
    error::WsError,
    message::{Kind, Messages, is_unsendable},
};
use crate::transport::{CloseCause, Framing, Received, Transport, WriteClosed};

/// WebSocket over the byte stream `T`, after its opening handshake.
/// [`WsLayer`](super::WsLayer) and [`WsConnectLayer`](super::WsConnectLayer) create it.
///
/// An idle transport holds no buffer. Pings are answered as they arrive and independently of
/// the handlers. If the peer does not read, only the last of its pings is answered.
pub struct WsTransport<T> {
    io: T,
    messages: Messages,
    reader: FrameReader,
    writer: FrameWriter,
    closing: CloseHandshake,
    /// Compression, if it was agreed.
    deflate: Option<PerMessage>,
}

impl<T> WsTransport<T> {
    /// Creates a new transport. `input` has arrived together with the opening handshake.
    pub(super) fn new(
        io: T,
        settings: TransportSettings,
        deflate: Option<PerMessage>,
        input: BytesMut,
    ) -> Self {
        let TransportSettings {
            role,
            limits,
            messages,
        } = settings;
        Self {
            io,
            messages,
            reader: FrameReader::new(role, limits, input),
            writer: FrameWriter::new(role, messages),
            closing: CloseHandshake::default(),
            deflate,
        }
    }

    /// Returns a reference to the byte stream.
    pub const fn get_ref(&self) -> &T {
        &self.io
    }

    /// Drops everything that has arrived because it will not be parsed.
    #[cold]
    fn stop_reading(&mut self) {
        self.reader.clear();
        if let Some(deflate) = &mut self.deflate {
            deflate.discard();
        }
    }

    /// Ends the input after a violation of the protocol.
    #[cold]
    fn fail(&mut self, error: WsError) -> Received {
        self.closing.fail(error);
        self.stop_reading();
        Received::End
    }

    /// Ends the input because the stream ended without a close frame.
    #[cold]
    fn fail_at_end(&mut self) -> Received {
        self.closing.fail_at_end();
        self.stop_reading();
        Received::End
    }

    /// Ends the input after the peer's close frame.
    // (design.md: Why is a peer's close frame not a half-close?)
    #[cold]
    fn receive_close(&mut self, close: WsClose) -> Received {
        self.closing.receive(close);
        self.stop_reading();
        Received::End
    }

    /// Ends the input after a message that cannot be sent.
    #[cold]
    fn fail_encoding(&mut self, error: io::Error) -> WriteClosed {
        self.closing.fail_encoding(error);
        self.stop_reading();
        WriteClosed
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for WsTransport<T> {
    fn framing(&self) -> Framing {
        Framing::Messages
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        loop {
            if self.closing.input_is_over() {
                return Poll::Ready(Ok(Received::End));
            }
            // Pongs do not wait for a message of the session.
            if self.writer.needs_flush()
                && let Poll::Ready(Err(_)) = self.writer.poll_flush(&mut self.io, cx)
            {
                // Messages that have arrived are still received. A later read or write reports the
                // failure.
                self.writer.discard();
            }
            match self
                .reader
                .next(self.messages == Messages::Both, &mut self.deflate, buf)
            {
                Ok(Event::Message(bytes)) => return Poll::Ready(Ok(Received::Data(bytes))),
                Ok(Event::NeedsInput) => {}
                Ok(Event::Progress(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
                Ok(Event::Inflating(bytes)) => {
                    if let Some(deflate) = &mut self.deflate
                        && deflate.poll_budget(cx).is_pending()
                    {
                        self.reader.report_later(bytes);
                        return Poll::Pending;
                    }
                    return Poll::Ready(Ok(Received::Control(bytes)));
                }
                Ok(Event::Inflated(bytes)) => {
                    if let Some(deflate) = &mut self.deflate {
                        // The message is complete. The session will find the budget used up.
                        let _ = deflate.poll_budget(cx);
                    }
                    return Poll::Ready(Ok(Received::Data(bytes)));
                }
                Ok(Event::Ping(payload)) => {
                    let bytes = payload.as_slice().len();
                    self.writer.pong(payload);
                    return Poll::Ready(Ok(Received::Control(bytes)));
                }
                Ok(Event::Pong(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
                Ok(Event::Close(close)) => return Poll::Ready(Ok(self.receive_close(close))),
                Err(error) => return Poll::Ready(Ok(self.fail(error))),
            }
            match self.reader.poll_read(&mut self.io, cx, &self.deflate) {
                Poll::Pending => {
                    self.reader.shrink();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Read::Data)) => {}
                Poll::Ready(Ok(Read::End)) => return Poll::Ready(Ok(self.fail_at_end())),
                Poll::Ready(Ok(Read::Invalid(error))) => return Poll::Ready(Ok(self.fail(error))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closing.is_sent() {
            return Poll::Ready(Err(WriteClosed.into()));
        }
        match self
            .writer
            .poll_send(&mut self.io, cx, bufs, &mut self.deflate)
        {
            Poll::Ready(Err(error)) if is_unsendable(&error) => {
                // A pending receive must return the end of the input.
                cx.waker().wake_by_ref();
                Poll::Ready(Err(self.fail_encoding(error).into()))
            }
            polled => polled,
        }
    }

    #[inline]
    fn shared_form(&self) -> Option<SharedForm> {
        self.deflate.as_ref()?.shared_form(self.messages)
    }

    #[cold]
    fn prepare(&mut self, message: &[u8]) -> Bytes {
        let (kind, message) = match self.messages {
            Messages::Binary => (Some(Kind::Binary), message),
            Messages::Text => (Some(Kind::Text), message),
            Messages::Both => match message.split_first() {
                Some((tag, message)) => (Kind::from_tag(*tag), message),
                None => (None, message),
            },
        };
        match (&mut self.deflate, kind) {
            // A message that cannot be sent fails when it is.
            (_, Some(Kind::Text)) if std::str::from_utf8(message).is_err() => Bytes::new(),
            (Some(deflate), Some(kind)) => deflate.prepare(kind, message),
            _ => Bytes::new(),
        }
    }

    fn poll_send_prepared(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        if prepared.is_empty() {
            // The message was found not to be worth compressing.
            let deflate = self.deflate.take();
            let polled = self.poll_send(cx, bufs);
            self.deflate = deflate;
            return polled;
        }
        if self.closing.is_sent() {
            return Poll::Ready(Err(WriteClosed.into()));
        }
        ready!(self.writer.poll_send_prepared(&mut self.io, cx, prepared))?;
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closing.queue_answer(&mut self.writer);
        self.writer.poll_flush(&mut self.io, cx)
    }

    fn bytes_flushed(&self) -> u64 {
        self.writer.bytes_flushed()
    }

    #[inline]
    fn needs_flush(&self) -> bool {
        self.writer.needs_flush()
    }

    fn is_incomplete(&self) -> bool {
        self.reader.is_incomplete()
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        self.closing.take_cause()
    }

    fn has_ping(&self) -> bool {
        true
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_sent() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.writer.poll_room(&mut self.io, cx))?;
        self.writer.ping();
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        let Self {
            io,
            reader,
            writer,
            closing,
            deflate,
            ..
        } = self;
        closing.poll(io, reader, writer, deflate, cx, reason)
    }
}

impl<T: fmt::Debug> fmt::Debug for WsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsTransport")
            .field("io", &self.io)
            .field("role", &self.reader.role())
            .field("messages", &self.messages)
            .field("deflate", &self.deflate.is_some())
            .finish_non_exhaustive()
    }
}
