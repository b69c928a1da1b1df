//! Client side of the opening handshake, around any connector.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use getty_core::{CloseReason, Connection, TransportKind, hooks::HandleExt};
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

use super::{error::WsConnectError, target::Target};
use crate::{
    transport::ByteStream,
    ws::{
        deflate::{Deflate, WsDeflate},
        handshake::{
            HANDSHAKE_TIMEOUT, HeadLimits, WsHandshakeError, WsRequest, has_token, is_token,
            mark_sensitive, read_response, subprotocol, write_head,
        },
        message::Messages,
        transport::{Limits, Role, TransportSettings, WsTransport},
    },
};

/// Turns a connector into a WebSocket client, which connects to a URL and runs the opening
/// handshake.
///
/// The target is a URL such as `ws://host:port/path`. The default port is 80. For `wss://` it
/// is 443. The connector receives the host and the port. For `wss://` it must use TLS.
/// Otherwise the call fails before any byte of the request is sent. `WsUrlConnectLayer`
/// (feature `tls`) accepts URLs of both kinds.
///
/// ```no_run
/// use getty::{net::TcpConnector, ws::{WsConnectLayer, http::header}};
/// use getty::tower::{Layer, ServiceExt};
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
/// With the feature `tls`, put this layer around a
/// [`TlsConnectLayer`](crate::tls::TlsConnectLayer) for `wss://`. The server's certificate is
/// verified for the host in the URL.
///
/// ```no_run
/// # #[cfg(feature = "tls")]
/// # async fn dial() -> Result<(), getty::BoxError> {
/// # use getty::net::TcpConnector;
/// # use getty::{ServiceBuilder, tls::{ClientTls, TlsConnectLayer}, ws::WsConnectLayer};
/// # use getty::tower::ServiceExt;
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
    deflate: Option<Deflate>,
}

impl WsConnectLayer {
    /// Creates a new layer. Its requests have only the required header fields and no subprotocol.
    /// Messages are binary and may have up to 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            headers: HeaderMap::new(),
            protocols: Vec::new(),
            head: HeadLimits::DEFAULT,
            limits: Limits::DEFAULT,
            messages: Messages::default(),
            timeout: HANDSHAKE_TIMEOUT,
            deflate: None,
        }
    }

    /// Adds a header field to the request, such as `Origin` or `Authorization`. Fields of the
    /// handshake itself must not be added. `Debug` does not show the values of `Authorization`,
    /// `Proxy-Authorization` and `Cookie`.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        mark_sensitive(&name, &mut value);
        self.headers.append(name, value);
        self
    }

    /// Sets the offered subprotocols in order of preference. The server's choice is
    /// [`WsRequest::protocol`], which is an attribute of the connection's handle. The default is
    /// none.
    ///
    /// # Panics
    ///
    /// Panics if a name is not a valid token of visible ASCII characters.
    #[must_use]
    pub fn with_protocols<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let protocols = protocols.into_iter().map(|name| subprotocol(name.as_ref()));
        self.protocols = protocols.collect();
        self
    }

    /// Sets the kind of messages. The default is binary.
    #[must_use]
    pub const fn with_messages(mut self, messages: Messages) -> Self {
        self.messages = messages;
        self
    }

    /// Sets the maximum length of a received message in bytes, at least 1. The default is 64 KiB. A
    /// longer message closes the session with code 1009.
    #[must_use]
    pub fn with_max_message(mut self, bytes: usize) -> Self {
        self.limits.message = bytes.max(1);
        self
    }

    /// Sets the maximum length of a received frame in bytes, at least 1. The default is the maximum
    /// of a message.
    #[must_use]
    pub fn with_max_frame(mut self, bytes: usize) -> Self {
        self.limits.frame = bytes.max(1);
        self
    }

    /// Sets the compression with permessage-deflate, which is offered to the server. The default is
    /// no offer. The [module](crate::ws#compression) describes when not to compress.
    ///
    /// Messages are compressed if the server accepts. [`WsDeflate`](crate::ws::WsDeflate) is then
    /// an attribute of the session. The call fails with
    /// [`InvalidResponse`](WsConnectError::InvalidResponse) if the parameters of the answer do not
    /// fit the offer.
    #[cfg(feature = "compression")]
    #[must_use]
    pub fn with_deflate(mut self, deflate: Deflate) -> Self {
        self.deflate = Some(deflate);
        self
    }

    /// Sets the maximum size of the response head. The defaults are 8 KiB and 64 header fields.
    #[must_use]
    pub const fn with_max_head(mut self, bytes: usize, headers: usize) -> Self {
        self.head = HeadLimits { bytes, headers };
        self
    }

    /// Sets the timeout of the handshake, which starts once the connector has connected. The
    /// default is 10 s.
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
            value.unwrap_or_else(|_| unreachable!("hosts and keys are valid values"))
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
        if let Some(deflate) = &self.deflate {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, deflate.offer());
        }
        headers.extend(self.headers.clone());
        request
    }

    async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        target: &Target,
        buffer: &mut BytesMut,
    ) -> Result<(WsRequest, Option<WsDeflate>), WsConnectError> {
        let key = generate_key();
        let request = self.request(target, &key);
        let root = PathAndQuery::from_static("/");
        // The path is written from the parts of the URL because its text lacks the path if there is
        // only a query.
        let path = target.uri.path_and_query().unwrap_or(&root);
        let first = format!("GET {path} HTTP/1.1");
        write_head(io, &first, request.headers(), "")
            .await
            .map_err(WsHandshakeError::from)?;
        let response = match read_response(io, buffer, self.head).await {
            Err(WsHandshakeError::Refused(_)) => {
                return Err(WsConnectError::InvalidResponse("its head is too large"));
            }
            other => other?,
        };
        let (protocol, agreed) = self.check(&response, &key)?;
        Ok((WsRequest::new(&request, protocol, &[]), agreed))
    }

    /// Checks that the response accepts the request. Returns the chosen subprotocol, and the
    /// compression that is agreed.
    fn check(
        &self,
        response: &Response<()>,
        key: &str,
    ) -> Result<(Option<HeaderValue>, Option<WsDeflate>), WsConnectError> {
        let headers = response.headers();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(WsConnectError::Refused {
                status: response.status(),
                headers: Box::new(headers.clone()),
            });
        }
        let invalid = |what| Err(WsConnectError::InvalidResponse(what));
        // A second protocol would be spoken over WebSocket (RFC 6455, section 4.1).
        if !is_token(headers, &header::UPGRADE, "websocket")
            || !has_token(headers, &header::CONNECTION, "upgrade")
        {
            return invalid("it does not upgrade to WebSocket");
        }
        let once = [header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL];
        if once
            .iter()
            .any(|name| headers.get_all(name).iter().nth(1).is_some())
        {
            return invalid("a header field that must occur once occurs twice");
        }
        let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| *accept != derive_accept_key(key.as_bytes())) {
            return invalid("its Sec-WebSocket-Accept does not match the request");
        }
        let agreed = match &self.deflate {
            Some(deflate) => deflate
                .confirm(headers)
                .map_err(WsConnectError::InvalidResponse)?,
            None if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) => {
                return Err(WsConnectError::InvalidResponse(
                    "it selects an extension, but none was offered",
                ));
            }
            None => None,
        };
        let chosen = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
        if chosen.is_some_and(|chosen| !self.protocols.contains(chosen)) {
            return invalid("it selects a subprotocol that was not offered");
        }
        Ok((chosen.cloned(), agreed))
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

/// Connector that [`WsConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct WsConnect<C> {
    connector: C,
    layer: WsConnectLayer,
}

impl<C> WsConnect<C> {
    /// Returns a reference to the inner connector.
    pub const fn get_ref(&self) -> &C {
        &self.connector
    }

    /// Returns a mutable reference to the inner connector.
    pub const fn get_mut(&mut self) -> &mut C {
        &mut self.connector
    }

    /// Returns the inner connector.
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

    /// Always ready. The connector's readiness is polled in the call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WsConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: A) -> WsConnecting<T> {
        let target = Target::parse(url);
        let (connector, layer) = (self.connector.clone(), self.layer.clone());
        WsConnecting(Box::pin(async move {
            let target = target?;
            let dialed = connector.oneshot(target.address());
            let connection = dialed
                .await
                .map_err(|error| WsConnectError::Connect(error.into()))?;
            open(connection, &target, &layer).await
        }))
    }
}

/// Runs the opening handshake on a new connection.
pub(super) async fn open<T: AsyncRead + AsyncWrite + Unpin>(
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
        Ok((request, agreed)) => {
            let deflate = layer.deflate.as_ref().zip(agreed).map(|(deflate, agreed)| {
                handle.insert(agreed);
                deflate.open(agreed, Role::Client)
            });
            handle.insert(request);
            handle.set_transport(if is_tls {
                TransportKind::SecureWebSocket
            } else {
                TransportKind::WebSocket
            });
            let settings = TransportSettings {
                role: Role::Client,
                limits: layer.limits,
                messages: layer.messages,
            };
            Ok(connection.map_transport(|()| WsTransport::new(io, settings, deflate, buffer)))
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

/// Future of [`WsConnect`].
///
/// # Cancel safety
///
/// Dropping it abandons the attempt and closes its connection.
#[must_use = "futures do nothing unless polled"]
pub struct WsConnecting<T>(pub(super) Pin<Box<Opening<T>>>);

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
