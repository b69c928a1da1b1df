//! WebSocket messages as a byte stream.

use std::{
    fmt,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use getty_core::{CloseReason, Connection};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{DEFAULT_MAX_MESSAGE, WsTransport};
use crate::{
    buffer_pool,
    transport::{CloseCause, Framing, Received, Transport},
    ws::{
        error::WsError,
        message::{Kind, Messages},
    },
};

/// Maximum length in bytes of a message that a [`WsStream`] sends: the default maximum of
/// receivers.
const MAX_SENT: usize = DEFAULT_MAX_MESSAGE;

/// WebSocket whose messages carry a byte stream: [`WsLayer::as_stream`] and
/// [`WsConnectLayer::as_stream`] create it.
///
/// The boundaries of WebSocket messages have no meaning. The codec finds its frames in the
/// bytes, as over TCP: a frame may span several WebSocket messages, and a WebSocket message may
/// contain several frames. MQTT, STOMP, VNC and tunnels use WebSocket in this way.
///
/// | [`Messages`] | sent as | received text |
/// |---|---|---|
/// | `Binary`, the default | binary | closes the session with code 1003 |
/// | `Text` | text, cut between characters; bytes that are not UTF-8 close the session with code 1011 | is accepted |
/// | `Both` | binary | is accepted |
///
/// - *Limits*: a received WebSocket message is passed on when it is complete, so
///   [`WsLayer::with_max_message`] bounds the memory for it. The codec's maximum bounds its
///   frames as on every stream. A sent WebSocket message has at most 64 KiB.
/// - *Backpressure*: nothing is read until the last message is passed on in full, or while the
///   read-ahead limit of the session is reached.
/// - *Control frames*: pings, pongs and close codes work as over [`WsTransport`]. If the peer
///   closes within a frame of the codec, the codec reports the truncated frame.
/// - *Half-close*: WebSocket has none, so [`Session::finish`](crate::Session::finish) is not
///   supported.
///
/// [`WsLayer::as_stream`]: crate::ws::WsLayer::as_stream
/// [`WsConnectLayer::as_stream`]: crate::ws::WsConnectLayer::as_stream
/// [`WsLayer::with_max_message`]: crate::ws::WsLayer::with_max_message
pub struct WsStream<T> {
    ws: WsTransport<T>,
    /// Bytes of the last received message that the session has not taken yet.
    rest: BytesMut,
    sends_text: bool,
    accepts_text: bool,
}

impl<T> WsStream<T> {
    /// Turns the transport of a connection into a stream.
    ///
    /// Use it for connectors and upgrades that have no `as_stream`:
    /// `.map_response(WsStream::connection)` around a connector, or
    /// `.map_request(WsStream::connection)` in a stack.
    #[must_use]
    pub fn connection(connection: Connection<WsTransport<T>>) -> Connection<Self> {
        connection.map_transport(Self::new)
    }

    /// Creates a new stream over `ws`.
    fn new(mut ws: WsTransport<T>) -> Self {
        let messages = ws.messages;
        // Received messages then start with a tag for their kind, which `poll_recv` removes.
        ws.messages = Messages::Both;
        ws.writer.set_messages(match messages {
            Messages::Text => Messages::Text,
            Messages::Binary | Messages::Both => Messages::Binary,
        });
        Self {
            ws,
            rest: BytesMut::new(),
            sends_text: messages == Messages::Text,
            accepts_text: messages != Messages::Binary,
        }
    }

    /// Returns a reference to the byte stream below WebSocket.
    pub const fn get_ref(&self) -> &T {
        self.ws.get_ref()
    }

    /// Passes on up to `limit` bytes of the last message.
    fn take_rest(&mut self, buf: &mut BytesMut, limit: usize) -> usize {
        let bytes = self.rest.len().min(limit);
        buf.extend_from_slice(&self.rest[..bytes]);
        self.rest.advance(bytes);
        self.return_buffer();
        bytes
    }

    /// Returns the buffer to the pool if it is empty.
    fn return_buffer(&mut self) {
        if self.rest.is_empty() {
            buffer_pool::put(std::mem::take(&mut self.rest));
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WsStream<T> {
    /// Sends the longest prefix of `bufs` that is UTF-8, as one message.
    #[cold]
    fn poll_send_text(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut text = Vec::new();
        for buf in bufs {
            let room = MAX_SENT - text.len();
            text.extend_from_slice(&buf[..room.min(buf.len())]);
        }
        let end = match std::str::from_utf8(&text) {
            // An incomplete character at the end waits for the next call.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
                error.valid_up_to()
            }
            // The writer refuses invalid text.
            _ => text.len(),
        };
        self.ws.poll_send(cx, &[IoSlice::new(&text[..end])])
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for WsStream<T> {
    fn framing(&self) -> Framing {
        Framing::Stream
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        if !self.rest.is_empty() {
            // The bytes were counted when their message was complete.
            self.take_rest(buf, limit);
            return Poll::Ready(Ok(Received::Data(0)));
        }
        if self.rest.capacity() == 0 {
            self.rest = buffer_pool::take();
        }
        let received = self.ws.poll_recv(cx, &mut self.rest, usize::MAX);
        let Poll::Ready(Ok(Received::Data(bytes))) = received else {
            self.return_buffer();
            return received;
        };
        let is_text = self.rest.first() == Some(&Kind::Text.tag());
        if is_text && !self.accepts_text {
            self.rest.clear();
            self.return_buffer();
            return Poll::Ready(Ok(self.ws.fail(WsError::TextRefused)));
        }
        self.rest.advance(1);
        let taken = self.take_rest(buf, limit);
        Poll::Ready(Ok(match taken {
            0 => Received::Control(bytes),
            _ => Received::Data(bytes),
        }))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.sends_text {
            return self.poll_send_text(cx, bufs);
        }
        let mut total = 0;
        let fit = bufs.iter().take_while(|buf| {
            total += buf.len();
            total <= MAX_SENT
        });
        match fit.count() {
            0 => match bufs.first() {
                Some(buf) => self.ws.poll_send(cx, &[IoSlice::new(&buf[..MAX_SENT])]),
                None => Poll::Ready(Ok(0)),
            },
            fit => self.ws.poll_send(cx, &bufs[..fit]),
        }
    }

    fn bytes_flushed(&self) -> u64 {
        self.ws.bytes_flushed()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ws.poll_flush(cx)
    }

    fn has_more(&self) -> bool {
        !self.rest.is_empty()
    }

    fn needs_flush(&self) -> bool {
        self.ws.needs_flush()
    }

    fn is_incomplete(&self) -> bool {
        self.ws.is_incomplete()
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        self.ws.take_close_reason()
    }

    fn has_ping(&self) -> bool {
        true
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ws.poll_ping(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        ready!(self.ws.poll_close(cx, reason))?;
        self.rest.clear();
        self.return_buffer();
        Poll::Ready(Ok(()))
    }
}

impl<T: fmt::Debug> fmt::Debug for WsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsStream")
            .field("ws", &self.ws)
            .field("rest", &self.rest.len())
            .finish_non_exhaustive()
    }
}
