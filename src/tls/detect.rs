//! TLS and plain byte streams on one port.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use getty_core::Connection;
use getty_layers::access::AccessList;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    error::TlsError,
    handshake::{self, secured},
    info::TlsInfo,
    layer::TlsLayer,
    stream::TlsStream,
};
use crate::transport::{ByteStream, HandshakeFuture, Prefixed};

/// Default time without a first byte after which a peer is treated as a plain peer.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Length of the start of a TLS record that is compared.
const RECORD_START: usize = 3;

/// Serves TLS and plain byte streams on one port, with one stack.
///
/// A TLS handshake begins with the bytes `16 03` and one from `00` to `04`. A connection with
/// these goes through the handshake of a [`TlsLayer`]. Every other connection stays a plain
/// byte stream. None of its bytes is lost.
///
/// - *ready*: polls the inner service. Its reservation is kept while the first bytes are
///   awaited.
/// - *call*: waits in the connection's task for three bytes or until fewer are known not to
///   begin a handshake.
/// - *drop, close*: as for [`TlsLayer`]. One deadline applies to the first bytes and the
///   handshake: [`TlsLayer::with_handshake_timeout`].
///
/// A peer that waits for the server to speak first sends nothing. It is treated as a plain peer
/// after a [timeout](Self::with_detect_timeout) of 1 s by default. Then its session opens. A
/// peer that has sent the start of a handshake has time until the deadline. So a slow network
/// does not turn a TLS client into a plain one. A protocol whose first message may begin with
/// these three bytes cannot share its port.
///
/// # Security
///
/// An attacker between the peers can suppress TLS. A client that accepts a plain connection
/// will not notice. Use this layer where clients may choose, such as during a migration.
/// [`with_plain_from`](Self::with_plain_from) should limit plain peers to trusted networks. A
/// handler that gives out secrets must check
/// [`transport`](crate::ConnectionHandle::transport). It is
/// [`TransportKind::Tls`](crate::TransportKind::Tls) over TLS only.
///
/// Scope: as for [`TlsLayer`]. In a stack it takes the place of [`TlsLayer`].
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty::layers::access::{AccessList, IpNet};
/// use getty::tls::{TlsConfig, TlsLayer, TlsOrPlainLayer};
///
/// # fn app(config: TlsConfig) -> Result<(), BoxError> {
/// let local = AccessList::deny_all().with_allowed(["10.0.0.0/8".parse::<IpNet>()?]);
/// let stack = ServiceBuilder::new()
///     .layer(TlsOrPlainLayer::new(TlsLayer::new(config)).with_plain_from(local))
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         Ok::<_, BoxError>(format!("over {}", request.session().transport()))
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TlsOrPlainLayer {
    tls: TlsLayer,
    plain_from: Option<AccessList>,
    timeout: Duration,
}

impl TlsOrPlainLayer {
    /// Creates a new layer that runs handshakes with the settings of `tls`. Plain connections are
    /// allowed from everywhere.
    #[must_use]
    pub const fn new(tls: TlsLayer) -> Self {
        Self {
            tls,
            plain_from: None,
            timeout: DETECT_TIMEOUT,
        }
    }

    /// Sets the peers that may use plain connections. The default is all. The first bytes of other
    /// peers are not examined: [`TlsLayer`] serves them. It refuses a plain one with
    /// [`TlsError::NotTls`].
    ///
    /// The default of the list applies to peers without an IP address, such as those of a Unix
    /// socket.
    #[must_use]
    pub fn with_plain_from(mut self, peers: AccessList) -> Self {
        self.plain_from = Some(peers);
        self
    }

    /// Sets the time without a first byte after which a peer is treated as a plain peer. The
    /// default is 1 s. The deadline of the handshake applies as well.
    #[must_use]
    pub const fn with_detect_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<S> Layer<S> for TlsOrPlainLayer {
    type Service = TlsOrPlain<S>;

    fn layer(&self, inner: S) -> TlsOrPlain<S> {
        TlsOrPlain {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service that [`TlsOrPlainLayer`] creates.
#[derive(Clone, Debug)]
pub struct TlsOrPlain<S> {
    inner: S,
    layer: TlsOrPlainLayer,
}

impl<S> TlsOrPlain<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for TlsOrPlain<S>
where
    S: Service<Connection<TlsOrPlainTransport<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HandshakeFuture<S, TlsOrPlainTransport<T>>;

    /// Polls the inner service. The called connection holds its reservation during the handshake
    /// and releases it if the handshake fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let open = open(connection, self.layer.clone());
        HandshakeFuture::new(&mut self.inner, open)
    }
}

async fn open<T: ByteStream>(
    connection: Connection<T>,
    layer: TlsOrPlainLayer,
) -> Result<Connection<TlsOrPlainTransport<T>>, TlsError> {
    let TlsOrPlainLayer {
        tls,
        plain_from,
        timeout,
    } = layer;
    let (transport, rest) = connection.take_transport();
    // Declared after `rest`, so that it is dropped first with this future.
    let transport = transport;
    let handle = rest.handle().clone();
    let may_be_plain = plain_from.is_none_or(|list| list.check(handle.peer_addr()).is_ok());
    let (transport, is_tls) = if may_be_plain {
        let detect = detect(transport, timeout);
        handshake::run(&handle, tls.timeout, tls.deadline(&handle), detect).await?
    } else {
        (Prefixed::new(transport, Bytes::new()), true)
    };
    if !is_tls {
        return Ok(rest.map_transport(|()| TlsOrPlainTransport(Either::Plain(transport))));
    }
    let stream = tls.accept(handle, transport).await?;
    let info = TlsInfo::accepted(&stream);
    let connection = secured(rest, stream, info);
    Ok(connection.map_transport(|tls| TlsOrPlainTransport(Either::Tls(tls))))
}

/// Returns the stream from its first byte, and `true` if it begins a TLS handshake.
async fn detect<T: AsyncRead + Unpin>(
    mut transport: T,
    timeout: Duration,
) -> Result<(Prefixed<T>, bool), TlsError> {
    let mut first = [0; RECORD_START];
    let mut len = 0;
    let end = Instant::now().checked_add(timeout);
    while len < RECORD_START && is_record_start(&first[..len]) {
        let read = transport.read(&mut first[len..]);
        let read = match end {
            Some(end) if len == 0 => timeout_at(end, read).await,
            _ => Ok(read.await),
        };
        match read {
            // A silent peer waits for the server to speak first, or has ended its direction.
            Err(_) | Ok(Ok(0)) => break,
            Ok(Ok(read)) => len += read,
            Ok(Err(error)) => return Err(TlsError::Io(error.into())),
        }
    }
    let is_tls = len == RECORD_START && is_record_start(&first);
    let first = Bytes::copy_from_slice(&first[..len]);
    Ok((Prefixed::new(transport, first), is_tls))
}

/// Returns `true` if a TLS handshake may begin with `first`: the type of its record, and a
/// version from SSL 3.0 to TLS 1.3. No other bytes of a record are as constant.
fn is_record_start(first: &[u8]) -> bool {
    matches!(first, [] | [0x16] | [0x16, 3] | [0x16, 3, 0..=4, ..])
}

/// TLS or a plain byte stream, as [`TlsOrPlainLayer`] detected.
///
/// It is a byte stream, so WebSocket and codecs work over both kinds.
pub struct TlsOrPlainTransport<T>(Either<T>);

enum Either<T> {
    Tls(TlsStream<Prefixed<T>>),
    Plain(Prefixed<T>),
}

impl<T> TlsOrPlainTransport<T> {
    #[cfg(test)]
    pub(crate) const fn plain(io: Prefixed<T>) -> Self {
        Self(Either::Plain(io))
    }

    /// Returns `true` if the stream is TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self.0, Either::Tls(_))
    }

    /// Returns a reference to the underlying stream. Bytes that are read from it are missing here.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        match &self.0 {
            Either::Tls(tls) => tls.get_ref().get_ref(),
            Either::Plain(plain) => plain.get_ref(),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsOrPlainTransport<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Either::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Either::Plain(plain) => Pin::new(plain).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsOrPlainTransport<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Either::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Either::Plain(plain) => Pin::new(plain).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Either::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Either::Plain(plain) => Pin::new(plain).poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Either::Tls(tls) => tls.is_write_vectored(),
            Either::Plain(plain) => plain.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Either::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Either::Plain(plain) => Pin::new(plain).poll_flush(cx),
        }
    }

    /// Ends this side's direction, over TLS with a `close_notify`.
    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Either::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Either::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for TlsOrPlainTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_tuple("TlsOrPlainTransport");
        match &self.0 {
            Either::Tls(tls) => f.field(tls),
            Either::Plain(plain) => f.field(plain),
        };
        f.finish()
    }
}
