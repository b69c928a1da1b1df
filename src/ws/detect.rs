//! Byte-stream sessions and WebSocket on one port, distinguished by the first bytes.

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use getty_core::{Close, CloseReason, Connection, ConnectionHandle};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, timeout_at},
};
use tower::{BoxError, Layer, Service};

use super::{
    handshake::{ServerSettings, WsHandshakeError, open},
    layer::WsLayer,
    transport::WsTransport,
};
use crate::transport::{
    ByteStream, CloseCause, Framing, HandshakeFuture, Prefixed, Received, SharedForm, Transport,
};

/// Default time without a first byte after which a peer is treated as a byte-stream peer.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First bytes of an upgrade request.
const GET: &[u8] = b"GET ";

/// Serves WebSocket and a byte-stream protocol on one port, with one stack.
///
/// A connection that begins with an HTTP GET request goes through the opening handshake of a
/// [`WsLayer`]. Every other connection stays a byte stream.
///
/// - *ready*: polls the inner service. Its reservation is kept while the first bytes are
///   awaited.
/// - *call*: waits for the first four bytes in the connection's task, or for fewer if they do
///   not begin a request.
/// - *close, drop*: as for [`WsLayer`].
///
/// A peer that waits for the server to speak first sends nothing. After a
/// [timeout](Self::with_detect_timeout), 1 s by default, it is treated as a byte-stream peer,
/// and its session opens. A protocol in which the server speaks first should therefore have its
/// own port. A protocol whose first message may begin with `GET ` cannot share its port.
///
/// Scope: session. In a stack it takes the place of [`WsLayer`]. The codec must suit both kinds
/// of session: it finds the messages in a byte stream, and each WebSocket message is one
/// message.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty::ws::{Messages, WsLayer, WsOrRawLayer};
///
/// // Lines for `nc`, and messages for a browser.
/// let stack = ServiceBuilder::new()
///     .layer(WsOrRawLayer::new(&WsLayer::new().with_messages(Messages::Text)))
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         Ok::<_, BoxError>(request.into_message())
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone, Debug)]
pub struct WsOrRawLayer {
    settings: Arc<ServerSettings>,
    timeout: Duration,
}

impl WsOrRawLayer {
    /// Creates a new layer that accepts upgrade requests with the settings of `layer`.
    #[must_use]
    pub fn new(layer: &WsLayer) -> Self {
        Self {
            settings: layer.settings(),
            timeout: DETECT_TIMEOUT,
        }
    }

    /// Sets the time without a first byte after which a peer is treated as a byte-stream peer. The
    /// default is 1 s. A WebSocket client on a slow network that needs longer is treated as a
    /// byte-stream peer, too.
    #[must_use]
    pub const fn with_detect_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<S> Layer<S> for WsOrRawLayer {
    type Service = WsOrRaw<S>;

    fn layer(&self, inner: S) -> WsOrRaw<S> {
        WsOrRaw {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service that [`WsOrRawLayer`] creates.
#[derive(Clone, Debug)]
pub struct WsOrRaw<S> {
    inner: S,
    layer: WsOrRawLayer,
}

impl<S> WsOrRaw<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for WsOrRaw<S>
where
    S: Service<Connection<WsOrRawTransport<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HandshakeFuture<S, WsOrRawTransport<T>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let settings = Arc::clone(&self.layer.settings);
        HandshakeFuture::new(
            &mut self.inner,
            detect(connection, settings, self.layer.timeout),
        )
    }
}

async fn detect<T>(
    connection: Connection<T>,
    settings: Arc<ServerSettings>,
    timeout: Duration,
) -> Result<Connection<WsOrRawTransport<T>>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (io, connection) = connection.take_transport();
    // Declared after `connection`, so that it is dropped first with this future.
    let mut io = io;
    let mut first = BytesMut::new();
    match is_request(&mut io, &mut first, timeout).await {
        Ok(true) => {
            let connection = connection.map_transport(|()| io);
            let connection = open(connection, first, settings).await?;
            Ok(connection.map_transport(|ws| WsOrRawTransport(Either::Ws(ws))))
        }
        Ok(false) => {
            Ok(connection
                .map_transport(|()| WsOrRawTransport(Either::Raw(Prefixed::new(io, first)))))
        }
        Err(error) => {
            let error = WsHandshakeError::from(error);
            connection
                .handle()
                .close_with(Close::new(CloseReason::Refused).with_source(error.clone()));
            drop(io);
            Err(error)
        }
    }
}

/// Returns `true` if the stream begins with a GET request.
async fn is_request<T: AsyncRead + Unpin>(
    io: &mut T,
    first: &mut BytesMut,
    timeout: Duration,
) -> io::Result<bool> {
    let end = Instant::now().checked_add(timeout);
    first.reserve(1024);
    loop {
        let known = first.len().min(GET.len());
        if first[..known] != GET[..known] {
            return Ok(false);
        }
        if known == GET.len() {
            return Ok(true);
        }
        let read = io.read_buf(first);
        let read = match end {
            Some(end) => timeout_at(end, read).await,
            None => Ok(read.await),
        };
        match read {
            // A silent peer waits for the server to speak first, or has ended its direction.
            Err(_) | Ok(Ok(0)) => return Ok(false),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// WebSocket or byte stream, as [`WsOrRawLayer`] detected.
pub struct WsOrRawTransport<T>(Either<T>);

enum Either<T> {
    Ws(WsTransport<T>),
    Raw(Prefixed<T>),
}

impl<T> WsOrRawTransport<T> {
    #[cfg(test)]
    pub(crate) const fn raw(io: Prefixed<T>) -> Self {
        Self(Either::Raw(io))
    }

    /// Returns `true` if the transport is a WebSocket.
    #[must_use]
    pub const fn is_ws(&self) -> bool {
        matches!(self.0, Either::Ws(_))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for WsOrRawTransport<T> {
    fn framing(&self) -> Framing {
        match &self.0 {
            Either::Ws(ws) => ws.framing(),
            Either::Raw(io) => io.framing(),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_recv(cx, buf, limit),
            Either::Raw(io) => io.poll_recv(cx, buf, limit),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_send(cx, bufs),
            Either::Raw(io) => io.poll_send(cx, bufs),
        }
    }

    fn shared_form(&self) -> Option<SharedForm> {
        match &self.0 {
            Either::Ws(ws) => ws.shared_form(),
            Either::Raw(io) => io.shared_form(),
        }
    }

    fn prepare(&mut self, message: &[u8]) -> Bytes {
        match &mut self.0 {
            Either::Ws(ws) => ws.prepare(message),
            Either::Raw(io) => io.prepare(message),
        }
    }

    fn poll_send_prepared(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_send_prepared(cx, bufs, prepared),
            Either::Raw(io) => io.poll_send_prepared(cx, bufs, prepared),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => Transport::poll_flush(ws, cx),
            Either::Raw(io) => Transport::poll_flush(io, cx),
        }
    }

    fn bytes_flushed(&self) -> u64 {
        match &self.0 {
            Either::Ws(ws) => ws.bytes_flushed(),
            Either::Raw(io) => io.bytes_flushed(),
        }
    }

    fn max_message(&self) -> usize {
        match &self.0 {
            Either::Ws(ws) => ws.max_message(),
            Either::Raw(io) => io.max_message(),
        }
    }

    fn has_more(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.has_more(),
            Either::Raw(io) => io.has_more(),
        }
    }

    fn needs_flush(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.needs_flush(),
            Either::Raw(io) => io.needs_flush(),
        }
    }

    fn is_incomplete(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.is_incomplete(),
            Either::Raw(io) => io.is_incomplete(),
        }
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        match &mut self.0 {
            Either::Ws(ws) => ws.take_close_reason(),
            Either::Raw(io) => io.take_close_reason(),
        }
    }

    fn has_ping(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.has_ping(),
            Either::Raw(io) => io.has_ping(),
        }
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_ping(cx),
            Either::Raw(io) => io.poll_ping(cx),
        }
    }

    fn can_finish(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.can_finish(),
            Either::Raw(io) => io.can_finish(),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_finish(cx),
            Either::Raw(io) => io.poll_finish(cx),
        }
    }

    fn check_upgrade(&self, undecoded: &[u8]) -> Result<(), CloseCause> {
        match &self.0 {
            Either::Ws(ws) => ws.check_upgrade(undecoded),
            Either::Raw(io) => io.check_upgrade(undecoded),
        }
    }

    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        handle: &ConnectionHandle,
        undecoded: &mut BytesMut,
    ) -> Poll<Result<(), CloseCause>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_upgrade(cx, handle, undecoded),
            Either::Raw(io) => io.poll_upgrade(cx, handle, undecoded),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_close(cx, reason),
            Either::Raw(io) => io.poll_close(cx, reason),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for WsOrRawTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Either::Ws(ws) => f.debug_tuple("WsOrRawTransport").field(ws).finish(),
            Either::Raw(io) => f.debug_tuple("WsOrRawTransport").field(io).finish(),
        }
    }
}
