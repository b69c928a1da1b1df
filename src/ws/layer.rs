//! Server side: the layer that runs the opening handshake.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use getty_core::Connection;
use http::{HeaderName, Request};
use tower::{BoxError, Layer, Service};

use super::{
    handshake::{
        HANDSHAKE_TIMEOUT, HeadLimits, Origin, Rules, ServerSettings, WsRefusal, open, subprotocol,
    },
    message::Messages,
    transport::{Limits, WsTransport},
};
use crate::{
    ConnectionHandle,
    transport::{ByteStream, HandshakeFuture},
};

/// Runs the opening handshake of WebSocket on a connection's byte stream and turns it into a
/// [`WsTransport`].
///
/// - *ready*: polls the inner service. Its reservation is kept during the handshake.
/// - *call*: reads the request, decides, responds and calls the inner service. All of this
///   happens in the connection's task, so the accept loop never waits.
/// - *close*: a refused request is answered with its status. The connection then closes as
///   [`Refused`](crate::CloseReason::Refused). The source, which is also the error of this
///   service, is a [`WsHandshakeError`](super::WsHandshakeError). A request that is incomplete
///   at the timeout closes the connection as
///   [`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
/// - *drop*: drops the connection or the inner future.
///
/// Scope: session. In a stack it belongs inside TLS and inside layers that limit or refuse
/// connections, and outside `CodecLayer`.
///
/// | refused | status |
/// |---|---|
/// | a path other than that of [`with_path`](Self::with_path) | 404 |
/// | a method other than GET | 405 |
/// | no request for an upgrade, or for another version than 13 | 426 |
/// | a page of another origin | 403 |
/// | a head that is too large | 431 |
/// | an invalid request | 400 |
///
/// ```
/// use getty::ws::{WsLayer, WsRefusal, http::{StatusCode, header}};
///
/// let layer = WsLayer::new()
///     .with_path("/feed")
///     .with_origins(["https://example.com"])
///     .with_protocols(["feed.v2", "feed.v1"])
///     .with_max_message(1024 * 1024)
///     .with_accept(|request, handle| async move {
///         let Some(user) = request.headers().get(header::AUTHORIZATION) else {
///             return Err(WsRefusal::new(StatusCode::UNAUTHORIZED, "who are you?"));
///         };
///         handle.insert(user.clone()); // an attribute of the session
///         Ok(())
///     });
/// ```
#[derive(Clone)]
pub struct WsLayer {
    shared: Arc<ServerSettings>,
}

impl WsLayer {
    /// Creates a new layer. It accepts any path, pages of the same origin only, and no subprotocol.
    /// Messages are binary and may have up to 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(ServerSettings {
                rules: Rules::default(),
                head: HeadLimits::DEFAULT,
                limits: Limits::DEFAULT,
                messages: Messages::default(),
                timeout: HANDSHAKE_TIMEOUT,
                deflate: None,
            }),
        }
    }

    fn set(mut self, f: impl FnOnce(&mut ServerSettings)) -> Self {
        f(Arc::make_mut(&mut self.shared));
        self
    }

    /// Accepts only this path, such as `/chat`. Any query is accepted. The default is any path.
    #[must_use]
    pub fn with_path(self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.with_path_matcher(move |requested| requested == path)
    }

    /// Accepts only paths for which `accepts` returns `true`.
    #[must_use]
    pub fn with_path_matcher(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.rules.path = Some(Arc::new(accepts)))
    }

    /// Accepts only pages of these origins. They are written as in browsers: `https://example.com`,
    /// with a port unless it is the default one. Requests without an `Origin` header do not come
    /// from pages and are accepted. Use the [accept hook](Self::with_accept) to check these.
    ///
    /// By default, pages may connect to the host that they came from: their origin must match the
    /// `Host` header. Over TLS the origin must have the scheme `https`. Without TLS it may have
    /// either scheme because a proxy may have ended TLS.
    #[must_use]
    pub fn with_origins<I>(self, origins: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        self.with_origin_check(move |origin| {
            origins
                .iter()
                .any(|known| origin.eq_ignore_ascii_case(known))
        })
    }

    /// Accepts only pages of origins for which `accepts` returns `true`. It is not called for
    /// requests without an `Origin` header.
    #[must_use]
    pub fn with_origin_check(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.rules.origin = Origin::Checked(Arc::new(accepts)))
    }

    /// Accepts pages of any origin. Every page in a user's browser may then connect, with the
    /// user's cookies. Use it only for public services without cookies.
    #[must_use]
    pub fn with_any_origin(self) -> Self {
        self.set(|settings| settings.rules.origin = Origin::Any)
    }

    /// Sets the supported subprotocols in order of preference. The first one that the client offers
    /// is agreed. If it offers none of them, the session has no subprotocol unless
    /// [one is required](Self::with_protocol_required). The default is none.
    ///
    /// # Panics
    ///
    /// Panics if a name is not a valid token of visible ASCII characters.
    #[must_use]
    pub fn with_protocols<I>(self, protocols: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let protocols = protocols.into_iter().map(|name| subprotocol(name.as_ref()));
        let protocols = protocols.collect();
        self.set(|settings| settings.rules.protocols = protocols)
    }

    /// Refuses clients that offer none of the supported subprotocols, with 400. The default is to
    /// accept them.
    #[must_use]
    pub fn with_protocol_required(self) -> Self {
        self.set(|settings| settings.rules.needs_protocol = true)
    }

    /// Calls `accept` for each request that passes all other checks. `Ok` accepts the request, and
    /// a [`WsRefusal`] is the response. The handle is the connection's: handlers can read the
    /// attributes that are [inserted](ConnectionHandle::insert) there. The hook runs in the
    /// connection's task, within the handshake timeout.
    ///
    /// It is called for each request, so clone shared state before the `async` block:
    ///
    /// ```
    /// # use std::{collections::HashSet, sync::Arc};
    /// # use getty::ws::{WsLayer, WsRefusal, http::{StatusCode, header}};
    /// let tokens = Arc::new(HashSet::from(["12345"]));
    /// let layer = WsLayer::new().with_accept(move |request, _handle| {
    ///     let tokens = Arc::clone(&tokens);
    ///     async move {
    ///         let token = request.headers().get(header::AUTHORIZATION);
    ///         let token = token.and_then(|token| token.to_str().ok());
    ///         if token.is_some_and(|token| tokens.contains(token)) {
    ///             return Ok(());
    ///         }
    ///         let refusal = WsRefusal::new(StatusCode::UNAUTHORIZED, "who are you?");
    ///         let scheme = "Bearer".parse().expect("the name is ASCII");
    ///         Err(refusal.with_header(header::WWW_AUTHENTICATE, scheme))
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn with_accept<F, Fut>(self, accept: F) -> Self
    where
        F: Fn(Request<()>, ConnectionHandle) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), WsRefusal>> + Send + 'static,
    {
        self.set(|settings| {
            settings.rules.accept = Some(Arc::new(move |request, handle| {
                Box::pin(accept(request, handle))
            }));
        })
    }

    /// Sets the header fields of the request that the session keeps, for
    /// [`WsRequest::headers`](super::WsRequest::headers). The default is none.
    ///
    /// An accept hook sees the whole request. All other fields are dropped with the handshake
    /// because an idle session would hold them until its close.
    ///
    /// ```
    /// use getty::ws::{WsLayer, http::header};
    ///
    /// let layer = WsLayer::new().with_kept_headers([header::USER_AGENT]);
    /// ```
    #[must_use]
    pub fn with_kept_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let mut kept = Vec::new();
        for name in names {
            if !kept.contains(&name) {
                kept.push(name);
            }
        }
        self.set(|settings| settings.rules.kept = kept)
    }

    /// Sets the kind of messages. The default is binary.
    #[must_use]
    pub fn with_messages(self, messages: Messages) -> Self {
        self.set(|settings| settings.messages = messages)
    }

    /// Sets the maximum length of a message in bytes, at least 1. The default is 64 KiB. A longer
    /// message closes the session with code 1009.
    ///
    /// The maximum should not be lower than the codec's. If it is raised, the codec's maximum must
    /// be raised as well: a message that only the codec refuses closes the session with code 1007.
    #[must_use]
    pub fn with_max_message(self, bytes: usize) -> Self {
        self.set(|settings| settings.limits.message = bytes.max(1))
    }

    /// Sets the maximum length of a frame in bytes, at least 1. The default is the maximum of a
    /// message. A longer frame closes the session with code 1009.
    #[must_use]
    pub fn with_max_frame(self, bytes: usize) -> Self {
        self.set(|settings| settings.limits.frame = bytes.max(1))
    }

    /// Sets the compression with permessage-deflate, for clients that offer it. The default is no
    /// compression. The [module](crate::ws#compression) describes when not to compress.
    ///
    /// If it is agreed, [`WsDeflate`](super::WsDeflate) is an attribute of the session. Clients
    /// without the extension are served without compression. The maximum of a message applies to
    /// the inflated message.
    #[cfg(feature = "compression")]
    #[must_use]
    pub fn with_deflate(self, deflate: super::Deflate) -> Self {
        self.set(|settings| settings.deflate = Some(deflate))
    }

    /// Sets the maximum size of a request head. The defaults are 8 KiB and 64 header fields. A
    /// larger head is refused with 431.
    #[must_use]
    pub fn with_max_head(self, bytes: usize, headers: usize) -> Self {
        self.set(|settings| settings.head = HeadLimits { bytes, headers })
    }

    /// Sets the timeout of the handshake, which starts with the call. The default is 10 s.
    #[must_use]
    pub fn with_handshake_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.timeout = timeout)
    }

    pub(super) fn settings(&self) -> Arc<ServerSettings> {
        Arc::clone(&self.shared)
    }
}

impl Default for WsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WsLayer").field(&self.shared).finish()
    }
}

impl<S> Layer<S> for WsLayer {
    type Service = Ws<S>;

    fn layer(&self, inner: S) -> Ws<S> {
        Ws {
            inner,
            settings: Arc::clone(&self.shared),
        }
    }
}

/// Service that [`WsLayer`] creates.
#[derive(Clone, Debug)]
pub struct Ws<S> {
    inner: S,
    settings: Arc<ServerSettings>,
}

impl<S> Ws<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for Ws<S>
where
    S: Service<Connection<WsTransport<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HandshakeFuture<S, WsTransport<T>>;

    /// Polls the inner service. The handshake keeps its reservation and releases it if it fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let settings = Arc::clone(&self.settings);
        HandshakeFuture::new(&mut self.inner, open(connection, BytesMut::new(), settings))
    }
}
