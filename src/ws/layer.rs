//! `WsLayer`: a connection's byte stream becomes a WebSocket.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use getty_core::Connection;
use http::{HeaderName, HeaderValue, Request};
use tower::{BoxError, Layer, Service};

use super::{
    Limits, Messages, Role, WsFuture, WsRefusal, WsTransport,
    handshake::{HeadLimits, Origin, Rules, open},
    transport::Setting,
};
use crate::{ConnectionHandle, transport::ByteStream};

/// How long a handshake may take unless the layer says otherwise.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a WebSocket: takes a connection's byte stream through the opening handshake and makes a [`WsTransport`] of it.
///
/// - *ready*: the inner service's. Its reservation is kept through the handshake.
/// - *call*: reads the request, decides, answers, and calls the inner service: all in the connection's own task, so that
///   whoever accepts never waits.
/// - *close*: a request that is refused is answered with its status, and the connection closes as
///   [`Refused`](crate::CloseReason::Refused), with a [`WsHandshakeError`](super::WsHandshakeError) as its source and
///   as the error of this service. A request that is not complete in time closes it as
///   [`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
/// - *drop*: drops the connection, or the inner future.
///
/// Scope: session. In a stack it stands inside TLS and whatever limits or refuses, and outside `CodecLayer`.
///
/// Refused are: other paths than those of [`with_path`](Self::with_path) with 404, other methods than GET with 405, what
/// asks for no upgrade, or for another version than 13, with 426, pages of another origin with 403, a head that is too
/// large with 431, and what makes no sense with 400.
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
///         handle.insert(user.clone()); // handlers find it on their session
///         Ok(())
///     });
/// ```
#[derive(Clone)]
pub struct WsLayer {
    shared: Arc<Settings>,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) rules: Rules,
    pub(super) head: HeadLimits,
    pub(super) limits: Limits,
    pub(super) messages: Messages,
    pub(super) timeout: Duration,
}

impl Settings {
    /// What the transport is made with.
    pub(super) const fn transport(&self) -> Setting {
        Setting {
            role: Role::Server,
            limits: self.limits,
            messages: self.messages,
        }
    }
}

impl WsLayer {
    /// Any path, pages of the same origin only, no subprotocol, binary messages of up to 64 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Settings {
                rules: Rules::default(),
                head: HeadLimits::DEFAULT,
                limits: Limits::DEFAULT,
                messages: Messages::default(),
                timeout: HANDSHAKE_TIMEOUT,
            }),
        }
    }

    fn set(mut self, f: impl FnOnce(&mut Settings)) -> Self {
        f(Arc::make_mut(&mut self.shared));
        self
    }

    /// Only this path, such as `/chat`; the query does not matter. Any path by default.
    #[must_use]
    pub fn with_path(self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.with_path_matcher(move |asked| asked == path)
    }

    /// Only paths for which `accepts` says so.
    #[must_use]
    pub fn with_path_matcher(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.rules.path = Some(Arc::new(accepts)))
    }

    /// Only pages of these origins, written as browsers do: `https://example.com`, with a port where it is not the usual
    /// one. Requests without an `Origin` header, which come from no page, are accepted; the
    /// [accept hook](Self::with_accept) is for those.
    ///
    /// Without this setting pages may connect to the host that they came from: their origin must be what the `Host`
    /// header says. Over TLS it must be one of `https`; without, it may be that as well, for a proxy may have the TLS.
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

    /// Only pages of origins for which `accepts` says so; it is not asked where there is no `Origin` header.
    #[must_use]
    pub fn with_origin_check(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.rules.origin = Origin::Checked(Arc::new(accepts)))
    }

    /// Pages of any origin: any page that a user looks at may connect, with the user's cookies. For public services
    /// without cookies.
    #[must_use]
    pub fn with_any_origin(self) -> Self {
        self.set(|settings| settings.rules.origin = Origin::Any)
    }

    /// The subprotocols that are spoken here, the best first. The first that the client offers too is agreed; if there
    /// is none, then none is, unless [one is needed](Self::with_protocol_needed).
    ///
    /// # Panics
    ///
    /// If a name is none that HTTP can carry: it must be visible ASCII.
    #[must_use]
    pub fn with_protocols<I>(self, protocols: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let protocols = protocols.into_iter().map(|name| protocol(name.as_ref()));
        let protocols = protocols.collect();
        self.set(|settings| settings.rules.protocols = protocols)
    }

    /// Refuses clients that offer none of our subprotocols, with 400. Off by default.
    #[must_use]
    pub fn with_protocol_needed(self) -> Self {
        self.set(|settings| settings.rules.needs_protocol = true)
    }

    /// Asks `accept` about each request that is otherwise in order: `Ok` accepts it, and a [`WsRefusal`] is answered. The
    /// handle is the connection's: what is [inserted](ConnectionHandle::insert) there is found by handlers. It runs in
    /// the connection's task, within the time for the handshake.
    ///
    /// It is called for each request, so a state that it uses is cloned before the `async` block:
    ///
    /// ```
    /// # use std::{collections::HashSet, sync::Arc};
    /// # use getty::ws::{WsLayer, WsRefusal, http::{StatusCode, header}};
    /// let tokens = Arc::new(HashSet::from(["12345"]));
    /// let layer = WsLayer::new().with_accept(move |request, _handle| {
    ///     let tokens = Arc::clone(&tokens);
    ///     async move {
    ///         let token = request.headers().get(header::AUTHORIZATION).and_then(|t| t.to_str().ok());
    ///         if token.is_some_and(|token| tokens.contains(token)) {
    ///             return Ok(());
    ///         }
    ///         let refusal = WsRefusal::new(StatusCode::UNAUTHORIZED, "who are you?");
    ///         Err(refusal.with_header(header::WWW_AUTHENTICATE, "Bearer".parse().expect("it is ASCII")))
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
    /// An accept hook sees the whole request. All other fields are dropped with the handshake,
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

    /// Of which kind messages are: binary by default.
    #[must_use]
    pub fn with_messages(self, messages: Messages) -> Self {
        self.set(|settings| settings.messages = messages)
    }

    /// The longest message, in bytes: 64 KiB by default, at least 1. A longer one closes the session with 1009. It is to
    /// be no less than what the codec takes, and where it is raised the codec's own maximum is to be raised as well: a
    /// message that only the codec finds too long closes the session with 1007.
    #[must_use]
    pub fn with_max_message(self, bytes: usize) -> Self {
        self.set(|settings| settings.limits.message = bytes.max(1))
    }

    /// The longest frame of a message, in bytes; by default as long as a message. A longer one closes the session with
    /// 1009.
    #[must_use]
    pub fn with_max_frame(self, bytes: usize) -> Self {
        self.set(|settings| settings.limits.frame = bytes.max(1))
    }

    /// How large the head of a request may be: so many bytes, 8 KiB by default, and so many headers, 64 by default. A
    /// larger one is refused with 431.
    #[must_use]
    pub fn with_max_head(self, bytes: usize, headers: usize) -> Self {
        self.set(|settings| settings.head = HeadLimits { bytes, headers })
    }

    /// How long a handshake may take, from the call on: 10 s by default.
    #[must_use]
    pub fn with_handshake_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.timeout = timeout)
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.shared)
    }
}

/// A subprotocol's name.
pub(super) fn protocol(name: &str) -> HeaderValue {
    match HeaderValue::from_str(name) {
        Ok(value) if !name.is_empty() && !name.contains([',', ' ', ';', '"']) => value,
        _ => panic!("`{name}` cannot be the name of a subprotocol"),
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

/// The service that [`WsLayer`] makes.
#[derive(Clone, Debug)]
pub struct Ws<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> Ws<S> {
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

impl<S, T> Service<Connection<T>> for Ws<S>
where
    S: Service<Connection<WsTransport<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = WsFuture<S, WsTransport<T>>;

    /// Reserves what the inner service reserves; the handshake keeps it, and gives it back if it fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let settings = Arc::clone(&self.settings);
        WsFuture::new(&mut self.inner, open(connection, BytesMut::new(), settings))
    }
}
