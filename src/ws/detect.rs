//! Plain sessions and WebSocket on one port, told apart by the first bytes.

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use getty_core::{CloseReason, Connection};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, timeout_at},
};
use tower::{BoxError, Layer, Service};

use super::{WsFuture, WsHandshakeError, WsLayer, WsTransport, handshake::open, layer::Settings};
use crate::transport::{ByteStream, Ended, Framing, Received, Transport};

/// How long a peer may say nothing before it is taken for a plain one, unless the layer says otherwise.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a request for an upgrade begins with.
const GET: &[u8] = b"GET ";

/// Serves WebSocket and the plain protocol on one port, with one stack: what begins as an HTTP GET request goes through
/// the handshake of a [`WsLayer`], all else is a byte stream as it was.
///
/// - *ready*: the inner service's. Its reservation is kept while the first bytes are awaited.
/// - *call*: waits for the first four bytes, or fewer if they are no request's, in the connection's own task.
/// - *close, drop*: as [`WsLayer`].
///
/// A peer that waits for the server to speak first says nothing. It is taken for a plain one after a
/// [time](Self::with_patience), 1 s by default, and its session opens only then: where that matters, a protocol in which
/// the server speaks first is better given a port of its own. A plain protocol whose first message may begin with `GET `
/// cannot share its port.
///
/// Scope: session. In a stack it stands where [`WsLayer`] would. The codec must suit both: on the plain side it finds the
/// messages, on the WebSocket side each message is one.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty::ws::{Messages, WsLayer, WsOrRawLayer};
///
/// // lines for `nc`, messages for a browser
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
    settings: Arc<Settings>,
    patience: Duration,
}

impl WsOrRawLayer {
    /// `layer` says which requests are accepted and how.
    #[must_use]
    pub fn new(layer: &WsLayer) -> Self {
        Self {
            settings: layer.settings(),
            patience: PATIENCE,
        }
    }

    /// How long a peer may say nothing before it is taken for a plain one: 1 s by default. A WebSocket client on a bad
    /// network that needs longer is taken for a plain one, too.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
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

/// The service that [`WsOrRawLayer`] makes.
#[derive(Clone, Debug)]
pub struct WsOrRaw<S> {
    inner: S,
    layer: WsOrRawLayer,
}

impl<S> WsOrRaw<S> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// The future of [`WsOrRaw`].
pub type WsOrRawFuture<S, T> = WsFuture<S, WsOrRawTransport<T>>;

impl<S, T> Service<Connection<T>> for WsOrRaw<S>
where
    S: Service<Connection<WsOrRawTransport<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = WsOrRawFuture<S, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let settings = Arc::clone(&self.layer.settings);
        WsFuture::new(
            &mut self.inner,
            detect(connection, settings, self.layer.patience),
        )
    }
}

async fn detect<T>(
    connection: Connection<T>,
    settings: Arc<Settings>,
    patience: Duration,
) -> Result<Connection<WsOrRawTransport<T>>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut io, connection) = connection.take_transport();
    let mut first = BytesMut::new();
    match is_request(&mut io, &mut first, patience).await {
        Ok(true) => {
            let connection = connection.map_transport(|()| io);
            let connection = open(connection, first, settings).await?;
            Ok(connection.map_transport(|ws| WsOrRawTransport(Either::Ws(ws))))
        }
        Ok(false) => Ok(connection.map_transport(|()| WsOrRawTransport(Either::Raw { io, first }))),
        Err(error) => {
            let error = WsHandshakeError::from(error);
            connection
                .handle()
                .close_because(CloseReason::Refused, error.clone());
            drop(io);
            Err(error)
        }
    }
}

/// Whether what comes first is the beginning of a GET request.
async fn is_request<T: AsyncRead + Unpin>(
    io: &mut T,
    first: &mut BytesMut,
    patience: Duration,
) -> io::Result<bool> {
    let end = Instant::now().checked_add(patience);
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
            // who says nothing waits for us to speak first, or has nothing to say
            Err(_) | Ok(Ok(0)) => return Ok(false),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// A WebSocket or a plain byte stream: what [`WsOrRawLayer`] makes of one.
pub struct WsOrRawTransport<T>(Either<T>);

enum Either<T> {
    Ws(WsTransport<T>),
    Raw {
        io: T,
        /// What was read to find out that it is one.
        first: BytesMut,
    },
}

impl<T> WsOrRawTransport<T> {
    /// Whether it is a WebSocket.
    #[must_use]
    pub const fn is_ws(&self) -> bool {
        matches!(self.0, Either::Ws(_))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for WsOrRawTransport<T> {
    fn framing(&self) -> Framing {
        match &self.0 {
            Either::Ws(ws) => ws.framing(),
            Either::Raw { io, .. } => io.framing(),
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
            Either::Raw { first, .. } if !first.is_empty() => {
                let part = first.len().min(limit);
                buf.extend_from_slice(&first[..part]);
                first.advance(part);
                if first.is_empty() {
                    *first = BytesMut::new();
                }
                Poll::Ready(Ok(Received::Data(part)))
            }
            Either::Raw { io, .. } => io.poll_recv(cx, buf, limit),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_send(cx, bufs),
            Either::Raw { io, .. } => io.poll_send(cx, bufs),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => Transport::poll_flush(ws, cx),
            Either::Raw { io, .. } => Transport::poll_flush(io, cx),
        }
    }

    fn written(&self) -> u64 {
        match &self.0 {
            Either::Ws(ws) => ws.written(),
            Either::Raw { io, .. } => io.written(),
        }
    }

    fn owes(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.owes(),
            Either::Raw { io, .. } => io.owes(),
        }
    }

    fn is_incomplete(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.is_incomplete(),
            Either::Raw { .. } => false,
        }
    }

    fn ended(&mut self) -> Option<Ended> {
        match &mut self.0 {
            Either::Ws(ws) => ws.ended(),
            Either::Raw { .. } => None,
        }
    }

    fn has_ping(&self) -> bool {
        self.is_ws()
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_ping(cx),
            Either::Raw { .. } => Poll::Ready(Ok(())),
        }
    }

    fn can_finish(&self) -> bool {
        match &self.0 {
            Either::Ws(ws) => ws.can_finish(),
            Either::Raw { io, .. } => io.can_finish(),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_finish(cx),
            Either::Raw { io, .. } => io.poll_finish(cx),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Either::Ws(ws) => ws.poll_close(cx, reason),
            Either::Raw { io, .. } => io.poll_close(cx, reason),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for WsOrRawTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Either::Ws(ws) => f.debug_tuple("WsOrRawTransport").field(ws).finish(),
            Either::Raw { io, .. } => f.debug_tuple("WsOrRawTransport").field(io).finish(),
        }
    }
}
