//! The client's side of the handshake, around any connector.

mod error;
#[cfg(feature = "tls")]
mod secure;
mod target;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use getty_core::{CloseReason, Connection, TransportKind};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::PathAndQuery,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tower::{BoxError, Layer, Service, ServiceExt};

pub use self::error::WsConnectError;
#[cfg(feature = "tls")]
pub use self::secure::{MaybeTls, WsUrlConnect, WsUrlConnectLayer};
use self::target::Target;
use super::{
    Limits, Messages, Role, WsHandshakeError, WsRequest, WsTransport,
    handshake::{HeadLimits, has_token, mark_secret, read_response, write_head},
    layer::{HANDSHAKE_TIMEOUT, protocol},
    transport::Setting,
};
use crate::transport::ByteStream;

/// Makes a WebSocket client of a connector: dials what a URL names and goes through the opening handshake.
///
/// The target is a URL, `ws://host:port/path`; the port is 80 if it is not said, and 443 for `wss://`. The connector is
/// given the host and the port. For `wss://` it must speak TLS: over one that does not, a dial fails before a byte of the
/// request is sent. `WsUrlConnectLayer`, with the feature `tls`, is for URLs of either kind.
///
/// ```no_run
/// use getty::{net::TcpConnector, ws::{WsConnectLayer, http::header}};
/// use tower::{Layer, ServiceExt};
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connector = WsConnectLayer::new()
///     .with_header(header::AUTHORIZATION, "Bearer 12345".parse()?)
///     .with_protocols(["feed.v2"])
///     .layer(TcpConnector::new());
/// let connection = connector.oneshot("ws://127.0.0.1:7080/feed").await?;
/// # Ok(())
/// # }
/// ```
///
/// With the feature `tls`, `wss://` is this layer around a [`TlsConnectLayer`](crate::tls::TlsConnectLayer): the name in
/// the URL is the one that the server's certificate is verified for.
///
/// ```no_run
/// # #[cfg(feature = "tls")]
/// # async fn dial() -> Result<(), getty::BoxError> {
/// # use getty::{ServiceBuilder, net::TcpConnector, tls::{ClientTls, TlsConnectLayer}, ws::WsConnectLayer};
/// # use tower::ServiceExt;
/// let connector = ServiceBuilder::new()
///     .layer(WsConnectLayer::new())
///     .layer(TlsConnectLayer::new(ClientTls::new().load()?))
///     .service(TcpConnector::new());
/// let connection = connector.oneshot("wss://example.com/feed").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WsConnectLayer {
    headers: HeaderMap,
    protocols: Vec<HeaderValue>,
    head: HeadLimits,
    limits: Limits,
    messages: Messages,
    timeout: Duration,
}

impl WsConnectLayer {
    /// No headers but those that are needed, no subprotocol, binary messages of up to 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            headers: HeaderMap::new(),
            protocols: Vec::new(),
            head: HeadLimits::DEFAULT,
            limits: Limits::DEFAULT,
            messages: Messages::default(),
            timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Sends another header with the request, such as `Origin` or `Authorization`. Those of the handshake itself are not
    /// to be given. `Debug` does not show what `Authorization`, `Proxy-Authorization` and `Cookie` say.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        mark_secret(&name, &mut value);
        self.headers.append(name, value);
        self
    }

    /// Offers these subprotocols, the best first. Which one the server has chosen, if any, is told by
    /// [`WsRequest::protocol`], an attribute of the connection's handle.
    ///
    /// # Panics
    ///
    /// If a name is none that HTTP can carry: it must be visible ASCII.
    #[must_use]
    pub fn with_protocols<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let protocols = protocols.into_iter().map(|name| protocol(name.as_ref()));
        self.protocols = protocols.collect();
        self
    }

    /// Of which kind messages are: binary by default.
    #[must_use]
    pub const fn with_messages(mut self, messages: Messages) -> Self {
        self.messages = messages;
        self
    }

    /// The longest message that is received, in bytes: 64 KiB by default, at least 1. A longer one closes the session
    /// with 1009.
    #[must_use]
    pub fn with_max_message(mut self, bytes: usize) -> Self {
        self.limits.message = bytes.max(1);
        self
    }

    /// The longest frame of a message that is received, in bytes; by default as long as a message.
    #[must_use]
    pub fn with_max_frame(mut self, bytes: usize) -> Self {
        self.limits.frame = bytes.max(1);
        self
    }

    /// How large the head of the answer may be: so many bytes, 8 KiB by default, and so many headers, 64 by default.
    #[must_use]
    pub const fn with_max_head(mut self, bytes: usize, headers: usize) -> Self {
        self.head = HeadLimits { bytes, headers };
        self
    }

    /// How long the handshake may take once the connector has connected: 10 s by default.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn request(&self, target: &Target, key: &str) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = target.uri.clone();
        let headers = request.headers_mut();
        let text = |text: &str| {
            let value = HeaderValue::from_str(text);
            value.unwrap_or_else(|_| unreachable!("hosts and keys are text"))
        };
        headers.insert(header::HOST, text(&target.host_header()));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_KEY, text(key));
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        for protocol in &self.protocols {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        }
        headers.extend(self.headers.clone());
        request
    }

    async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        target: &Target,
        buffer: &mut BytesMut,
    ) -> Result<WsRequest, WsConnectError> {
        let key = generate_key();
        let request = self.request(target, &key);
        let root = PathAndQuery::from_static("/");
        // shown, and not taken as text: that lacks the path of a URL with nothing but a query
        let asked = target.uri.path_and_query().unwrap_or(&root);
        let first = format!("GET {asked} HTTP/1.1");
        write_head(io, &first, request.headers(), "")
            .await
            .map_err(WsHandshakeError::from)?;
        let response = match read_response(io, buffer, self.head).await {
            Err(WsHandshakeError::Refused(_)) => {
                return Err(WsConnectError::Answer("its head is too large"));
            }
            other => other?,
        };
        let protocol = self.check(&response, &key)?;
        Ok(WsRequest::new(&request, protocol, &[]))
    }

    /// Whether the answer accepts what was asked for; the subprotocol that it chose.
    fn check(
        &self,
        response: &Response<()>,
        key: &str,
    ) -> Result<Option<HeaderValue>, WsConnectError> {
        let headers = response.headers();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(WsConnectError::Refused {
                status: response.status(),
                headers: Box::new(headers.clone()),
            });
        }
        let wrong = |what| Err(WsConnectError::Answer(what));
        if !has_token(headers, &header::UPGRADE, "websocket")
            || !has_token(headers, &header::CONNECTION, "upgrade")
        {
            return wrong("it upgrades to something else");
        }
        let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| *accept != derive_accept_key(key.as_bytes())) {
            return wrong("it accepts another request than ours");
        }
        if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
            return wrong("it chose an extension, and none was offered");
        }
        let chosen = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
        if chosen.is_some_and(|chosen| !self.protocols.contains(chosen)) {
            return wrong("it chose a subprotocol that was not offered");
        }
        Ok(chosen.cloned())
    }
}

impl Default for WsConnectLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> Layer<C> for WsConnectLayer {
    type Service = WsConnect<C>;

    fn layer(&self, connector: C) -> WsConnect<C> {
        WsConnect {
            connector,
            layer: self.clone(),
        }
    }
}

/// The connector that [`WsConnectLayer`] makes.
#[derive(Clone, Debug)]
pub struct WsConnect<C> {
    connector: C,
    layer: WsConnectLayer,
}

impl<C> WsConnect<C> {
    /// The connector.
    pub const fn get_ref(&self) -> &C {
        &self.connector
    }

    /// The connector.
    pub const fn get_mut(&mut self) -> &mut C {
        &mut self.connector
    }

    /// The connector, by value.
    pub fn into_inner(self) -> C {
        self.connector
    }
}

impl<C, A, T> Service<A> for WsConnect<C>
where
    Uri: TryFrom<A>,
    <Uri as TryFrom<A>>::Error: Into<http::Error>,
    C: Service<(String, u16), Response = Connection<T>> + Clone + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    T: ByteStream,
{
    type Response = Connection<WsTransport<T>>;
    type Error = WsConnectError;
    type Future = WsConnecting<T>;

    /// Always ready: the connector is asked once it is known what for.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WsConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: A) -> WsConnecting<T> {
        let target = Target::parse(url);
        let (connector, layer) = (self.connector.clone(), self.layer.clone());
        WsConnecting(Box::pin(async move {
            let target = target?;
            let dialled = connector.oneshot(target.address());
            let connection = dialled
                .await
                .map_err(|error| WsConnectError::Connect(error.into()))?;
            open(connection, &target, &layer).await
        }))
    }
}

async fn open<T: AsyncRead + AsyncWrite + Unpin>(
    connection: Connection<T>,
    target: &Target,
    layer: &WsConnectLayer,
) -> Result<Connection<WsTransport<T>>, WsConnectError> {
    let (mut io, connection) = connection.take_transport();
    let handle = connection.handle().clone();
    let is_tls = handle.transport() == TransportKind::Tls;
    if target.secure && !is_tls {
        return Err(WsConnectError::NotSecure);
    }
    let mut buffer = BytesMut::new();
    let opened = timeout(layer.timeout, layer.handshake(&mut io, target, &mut buffer))
        .await
        .unwrap_or_else(|_| Err(WsHandshakeError::TimedOut(layer.timeout).into()));
    match opened {
        Ok(request) => {
            handle.insert(request);
            handle.set_transport(if is_tls {
                TransportKind::SecureWebSocket
            } else {
                TransportKind::WebSocket
            });
            let setting = Setting {
                role: Role::Client,
                limits: layer.limits,
                messages: layer.messages,
            };
            Ok(connection.map_transport(|()| WsTransport::new(io, setting, buffer)))
        }
        Err(error) => {
            handle.close_with(match error {
                WsConnectError::Handshake(WsHandshakeError::TimedOut(_)) => {
                    CloseReason::HandshakeTimeout
                }
                _ => CloseReason::Refused,
            });
            drop(io);
            Err(error)
        }
    }
}

type Opening<T> = dyn Future<Output = Result<Connection<WsTransport<T>>, WsConnectError>> + Send;

/// A dial in progress: what [`WsConnect`] returns from `call`.
///
/// # Cancel safety
///
/// Dropped, it gives the dial up and closes its connection.
#[must_use = "futures do nothing unless polled"]
pub struct WsConnecting<T>(Pin<Box<Opening<T>>>);

impl<T> Future for WsConnecting<T> {
    type Output = Result<Connection<WsTransport<T>>, WsConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for WsConnecting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsConnecting").finish_non_exhaustive()
    }
}
