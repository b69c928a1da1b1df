//! Server side: the layer that receives headers.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Address, AddressesFixed, Close, Connection, ConnectionHandle};
use tokio::io::{AsyncRead, AsyncReadExt};
use tower::{BoxError, Layer, Service};

use super::{error::ProxyError, header::Header, info::ProxyInfo, parse};
use crate::{
    layers::access::{Access, AccessDenied, AccessList},
    transport::{HandshakeFuture, Interrupted, uninterrupted},
};

/// Default time for a header. The specification asks for 3 s or more, so that a lost packet can
/// be sent again.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Default maximum length of a header.
const MAX_HEADER: usize = 4096;

/// Connections from a source that is not a trusted proxy; see
/// [`ProxyProtocolLayer::with_untrusted`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Untrusted {
    /// The connection is refused.
    #[default]
    Refuse,
    /// The connection is passed on as it is, with the socket's addresses. Nothing is read, so a
    /// header that the peer may send reaches the codec as data.
    Direct,
}

/// Receives the PROXY header of trusted proxies, and sets the real addresses of the connection.
///
/// - *ready*: polls the inner service. Its reservation is kept while the header is read.
/// - *call*: reads the header in the connection's task, so the accept loop never waits. Then
///   calls the inner service. Exactly the header is read, and the transport stays the same.
/// - *close*: a connection without a valid header closes as
///   [`Refused`](crate::CloseReason::Refused), one whose header is late as
///   [`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout), and one that ends before its
///   first byte as [`PeerClosed`](crate::CloseReason::PeerClosed). The source, which is also the
///   error of this service, is a [`ProxyError`].
/// - *drop*: drops the connection or the inner future.
///
/// Scope: session. In a stack it belongs outside all layers that look at addresses, TLS
/// included, and inside limits on all connections: see the [module](super). The bytes of the
/// header count neither in the session's statistics nor as its activity. The inner service must
/// be `Clone`.
///
/// A trusted proxy without valid headers is usually a wrong setting, which refuses all clients.
/// The first such connection of a layer is logged at `WARN`, and the end of each at `DEBUG`.
///
/// ```
/// use getty::layers::access::{AccessList, IpNet};
/// use getty::layers::{AccessLayer, PeerLimitLayer, TraceLayer};
/// use getty::proxy::ProxyProtocolLayer;
/// use getty::{BoxError, CodecLayer, Pipeline, ServiceBuilder, SessionLayer, codec::Lines, handle};
///
/// fn app(clients: AccessList) -> Result<impl Pipeline<tokio::net::TcpStream>, BoxError> {
///     let proxies = AccessList::deny_all().with_allowed(["10.0.0.0/8".parse::<IpNet>()?]);
///     Ok(ServiceBuilder::new()
///         .concurrency_limit(10_000)
///         .layer(ProxyProtocolLayer::from_sources(proxies))
///         .layer(TraceLayer::new())
///         .layer(AccessLayer::new(clients)) // the real addresses from here on
///         .layer(PeerLimitLayer::new(20))
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service(handle(|line: String| line)))
/// }
/// # app(AccessList::allow_all()).unwrap();
/// ```
#[doc(alias = "haproxy")]
#[doc(alias = "send-proxy")]
#[derive(Clone, Debug)]
pub struct ProxyProtocolLayer {
    sources: AccessList,
    unaddressed: Option<Access>,
    untrusted: Untrusted,
    timeout: Duration,
    max_header: usize,
    /// `true` once a missing or invalid header was logged as a warning.
    warned: Arc<AtomicBool>,
}

impl ProxyProtocolLayer {
    /// Creates a new layer that trusts the proxies that `sources` allows. It checks the address
    /// of the socket's peer. A clone of the list can change it later.
    ///
    /// The list should be [`deny_all`](AccessList::deny_all) with the networks of the proxies. A
    /// peer that is trusted can give itself any address. A trusted proxy must send a header, so
    /// there is no detection that a client could exploit.
    #[must_use]
    pub fn from_sources(sources: AccessList) -> Self {
        Self {
            sources,
            unaddressed: None,
            untrusted: Untrusted::Refuse,
            timeout: TIMEOUT,
            max_header: MAX_HEADER,
            warned: Arc::default(),
        }
    }

    /// Sets whether sockets without an IP address are trusted. The default is the default of the
    /// list.
    ///
    /// A proxy that connects to a Unix listener has no address, so a list that denies by default
    /// needs [`Access::Allow`] here. The permissions of the socket's file then decide who is
    /// trusted.
    #[must_use]
    pub const fn with_unaddressed(mut self, access: Access) -> Self {
        self.unaddressed = Some(access);
        self
    }

    /// Sets what happens to connections from other sources. The default is
    /// [`Untrusted::Refuse`].
    #[must_use]
    pub const fn with_untrusted(mut self, untrusted: Untrusted) -> Self {
        self.untrusted = untrusted;
        self
    }

    /// Sets the time from a connection's accept until its header must be complete. The default is
    /// 5 s. The time includes a wait for a permit before this layer. Zero refuses every trusted
    /// proxy, and a time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum length of a header in bytes. The default is 4096, and the protocol has a
    /// maximum of 65,551. A longer header will be refused before its contents are read. Version 1
    /// has at most 107 bytes.
    #[must_use]
    pub const fn with_max_header(mut self, bytes: usize) -> Self {
        self.max_header = bytes;
        self
    }

    fn check(&self, source: &Address) -> Result<(), AccessDenied> {
        match (source.ip(), self.unaddressed) {
            (None, Some(Access::Allow)) => Ok(()),
            (None, Some(Access::Deny)) => AccessList::deny_all().check(source),
            _ => self.sources.check(source),
        }
    }

    /// Returns the connection behind its header.
    async fn receive<T: AsyncRead + Unpin>(
        self,
        mut connection: Connection<T>,
    ) -> Result<Connection<T>, ProxyError> {
        let handle = connection.handle().clone();
        let received = match self.check(handle.socket_peer_addr()) {
            Ok(()) => {
                self.receive_header(&handle, connection.transport_mut())
                    .await
            }
            Err(_) if self.untrusted == Untrusted::Direct => Ok(()),
            Err(denied) => Err(ProxyError::Untrusted(denied)),
        };
        match received {
            Ok(()) => Ok(connection),
            Err(error) => {
                self.warn_once(&handle, &error);
                let close = Close::new(error.reason()).with_source(error.clone());
                handle.close_with(close);
                Err(error)
            }
        }
    }

    fn warn_once(&self, handle: &ConnectionHandle, error: &ProxyError) {
        if matches!(error, ProxyError::Header(_)) && !self.warned.swap(true, Relaxed) {
            let error: &(dyn Error + 'static) = error;
            tracing::warn!(
                connection = %handle,
                error,
                "a connection of a trusted proxy was refused; others are logged at DEBUG"
            );
        }
    }

    async fn receive_header<T: AsyncRead + Unpin>(
        &self,
        handle: &ConnectionHandle,
        transport: &mut T,
    ) -> Result<(), ProxyError> {
        if handle.get::<ProxyInfo>().is_some() {
            return Err(ProxyError::Fixed(AddressesFixed::AlreadySet));
        }
        let deadline = handle.opened_at().checked_add(self.timeout);
        let read = read(transport, self.max_header);
        let (header, info) = match uninterrupted(handle, deadline, read).await {
            Ok(read) => read?,
            Err(Interrupted::TimedOut) => return Err(ProxyError::TimedOut(self.timeout)),
            Err(Interrupted::Closed) => return Err(ProxyError::Cancelled),
        };
        if let Some((source, destination)) = header.addresses {
            let set = handle.set_real_addrs(destination, source);
            set.map_err(ProxyError::Fixed)?;
        }
        handle.insert(info);
        Ok(())
    }
}

/// Reads a header and not a byte more.
async fn read<T: AsyncRead + Unpin>(
    transport: &mut T,
    max: usize,
) -> Result<(Header, ProxyInfo), ProxyError> {
    let mut bytes = Vec::new();
    loop {
        let missing = parse::missing(&bytes, max)?;
        if missing == 0 {
            let header = parse::parse(&bytes)?;
            let info = ProxyInfo::new(&header, &bytes);
            return Ok((header, info));
        }
        let len = bytes.len();
        bytes.resize(len + missing, 0);
        let read = match transport.read(&mut bytes[len..]).await {
            Ok(0) if len == 0 => return Err(ProxyError::Probe),
            Ok(0) => return Err(ProxyError::Truncated),
            Ok(read) => read,
            // a check that only connects may close with a reset
            Err(error) if len == 0 && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(ProxyError::Probe);
            }
            Err(error) => return Err(ProxyError::Io(error.into())),
        };
        bytes.truncate(len + read);
    }
}

impl<S> Layer<S> for ProxyProtocolLayer {
    type Service = ProxyProtocol<S>;

    fn layer(&self, inner: S) -> ProxyProtocol<S> {
        ProxyProtocol {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service that [`ProxyProtocolLayer`] creates.
#[derive(Clone, Debug)]
pub struct ProxyProtocol<S> {
    inner: S,
    layer: ProxyProtocolLayer,
}

impl<S> ProxyProtocol<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for ProxyProtocol<S>
where
    S: Service<Connection<T>, Error: Into<BoxError>> + Clone,
    T: AsyncRead + Unpin + Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HandshakeFuture<S, T>;

    /// Polls the inner service. The called connection holds its reservation while its header is
    /// read, and releases it if the connection is refused.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let receive = self.layer.clone().receive(connection);
        HandshakeFuture::new(&mut self.inner, receive)
    }
}
