//! A whole connection stack for each route.

use std::{
    any::type_name,
    collections::HashMap,
    error::Error,
    fmt,
    future::{Future, poll_fn},
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{Close, CloseReason, Connection, ConnectionHandle, hooks::Contained};
use pin_project_lite::pin_project;
use tokio::time;
use tower::{BoxError, Service, ServiceExt};

use crate::{
    pipeline::BoxPipeline,
    transport::{Interrupted, Transport, uninterrupted},
};

/// Default time from accept until the stack of a route must be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the close of a connection without a route.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Passes each connection to the stack of its route, such as a stack for each server name.
///
/// [`Router`](crate::Router) routes the messages of one stack. This service routes connections
/// before they have a codec, so each route has separate layers, a codec and a handler. The key
/// of a connection comes from its handle. It can be the server name in `TlsInfo`, the
/// [transport](ConnectionHandle::transport) or the address of the peer. Stacks of different
/// types can be routes as [`BoxPipeline`].
///
/// - *ready*: always. Nothing is reserved, because the route of the next connection is unknown.
/// - *call*: finds the route in the connection's task. Waits until a clone of its stack is
///   ready and calls it.
/// - *drop*: drops the inner future or the connection.
/// - *close*: a connection without a route closes as [`Refused`](CloseReason::Refused). Its
///   transport is closed as the protocol requires. If the stack is not ready
///   [in time](Self::with_ready_timeout), the connection closes as
///   [`HandshakeTimeout`](CloseReason::HandshakeTimeout). The source, which is also the error of
///   this service, is a [`RouteError`].
///
/// Scope: the routes are shared by all clones. It takes the place of the inner service of a
/// stack, inside layers that every route shares: limits, observation and TLS.
///
/// Limits inside a route do not slow down the accept loop. A listener accepts while the layers
/// outside are ready. Connections then wait in their tasks for a permit of the route. A limit
/// for all routes together should be outside.
///
/// ```
/// use getty::{BoxError, BoxPipeline, CodecLayer, ConnectionRouter, Request, ServiceBuilder};
/// use getty::{SessionLayer, TransportKind, codec::Lines, net};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// fn stack(name: &'static str) -> BoxPipeline {
///     BoxPipeline::new(
///         ServiceBuilder::new()
///             .layer(CodecLayer::new(Lines::new()))
///             .layer(SessionLayer::new())
///             .service_fn(move |request: Request<String>| async move {
///                 Ok::<_, BoxError>(format!("{name}: {}", request.message()))
///             }),
///     )
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let router = ConnectionRouter::new(|handle| Some(handle.transport()))
///     .with_route(TransportKind::Memory, stack("in memory"))
///     .with_route(TransportKind::Tcp, stack("over TCP"));
///
/// let (listener, connector) = net::memory(1024);
/// tokio::spawn(getty::serve(listener, router).into_future());
/// let mut client = connector.connect().await?.into_parts().0;
/// client.write_all(b"hello\n").await?;
/// client.shutdown().await?;
/// let mut reply = String::new();
/// client.read_to_string(&mut reply).await?;
/// assert_eq!(reply, "in memory: hello\n");
/// # Ok(())
/// # }
/// ```
///
/// By server name inside a `TlsLayer`:
///
#[cfg_attr(feature = "tls", doc = "```")]
#[cfg_attr(not(feature = "tls"), doc = "```ignore")]
/// use getty::{BoxPipeline, ConnectionRouter, tls::TlsInfo};
///
/// # fn router(admin: BoxPipeline, chat: BoxPipeline) -> ConnectionRouter<String> {
/// ConnectionRouter::new(|handle| Some(handle.get::<TlsInfo>()?.server_name()?.to_owned()))
///     .with_route("admin.example.com".to_owned(), admin)
///     .with_route("chat.example.com".to_owned(), chat)
/// # }
/// # let _ = router;
/// ```
#[doc(alias("steer", "mux"))]
pub struct ConnectionRouter<K, S = BoxPipeline> {
    key: Arc<KeyFn<K>>,
    routes: Arc<Routes<K, S>>,
    timeout: Duration,
}

type KeyFn<K> = dyn Fn(&ConnectionHandle) -> Option<K> + Send + Sync;

#[derive(Clone)]
struct Routes<K, S> {
    by_key: HashMap<K, Contained<S>>,
    fallback: Option<Contained<S>>,
}

impl<K: Eq + Hash + Clone, S: Clone> ConnectionRouter<K, S> {
    /// Creates a new router without routes. `key` is called once for each connection. It must not
    /// block. A panic ends the connection alone.
    pub fn new<F>(key: F) -> Self
    where
        F: Fn(&ConnectionHandle) -> Option<K> + Send + Sync + 'static,
    {
        let key = Contained::new(key);
        Self {
            key: Arc::new(move |handle: &ConnectionHandle| key.get_ref()(handle)),
            routes: Arc::new(Routes {
                by_key: HashMap::new(),
                fallback: None,
            }),
            timeout: READY_TIMEOUT,
        }
    }

    /// Adds the stack for connections with this key. Replaces an earlier route with an equal key.
    #[must_use]
    pub fn with_route(mut self, key: K, stack: S) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        routes.by_key.insert(key, Contained::new(stack));
        self
    }

    /// Sets the stack for connections without a key and for those whose key has no route. The
    /// default is to refuse them.
    #[must_use]
    pub fn with_fallback(mut self, stack: S) -> Self {
        Arc::make_mut(&mut self.routes).fallback = Some(Contained::new(stack));
        self
    }

    /// Sets the time from a connection's accept until the stack of its route must be ready. The
    /// default is 10 s. A time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_ready_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn find(&self, handle: &ConnectionHandle) -> Option<S> {
        let key = (self.key)(handle);
        let found = key.and_then(|key| self.routes.by_key.get(&key));
        let found = found.or(self.routes.fallback.as_ref());
        found.map(|stack| stack.get_ref().clone())
    }
}

impl<K, S> Clone for ConnectionRouter<K, S> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            routes: Arc::clone(&self.routes),
            timeout: self.timeout,
        }
    }
}

impl<K: fmt::Debug, S> fmt::Debug for ConnectionRouter<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRouter")
            .field("routes", &self.routes.by_key.keys())
            .field("fallback", &self.routes.fallback.is_some())
            .field("stack", &type_name::<S>())
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl<K, S, T> Service<Connection<T>> for ConnectionRouter<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Service<Connection<T>, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    T: Transport + Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RouteFuture<S, T>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        RouteFuture {
            routing: Some(Contained::new(Box::pin(route(self.clone(), connection)))),
            inner: None,
        }
    }
}

/// Finds the stack for a connection and waits until it is ready.
async fn route<K, S, T>(
    router: ConnectionRouter<K, S>,
    connection: Connection<T>,
) -> Result<(Contained<S>, Connection<T>), BoxError>
where
    K: Eq + Hash + Clone,
    S: Service<Connection<T>, Error: Into<BoxError>> + Clone,
    T: Transport,
{
    let handle = connection.handle().clone();
    let Some(stack) = router.find(&handle) else {
        return Err(refuse(connection).await.into());
    };
    let mut stack = Contained::new(stack);
    let deadline = handle.opened_at().checked_add(router.timeout);
    match uninterrupted(&handle, deadline, stack.get_mut().ready()).await {
        Ok(Ok(_)) => Ok((stack, connection)),
        Ok(Err(error)) => Err(error.into()),
        Err(Interrupted::TimedOut) => {
            let error = RouteError::NotReady(router.timeout);
            handle.close_with(Close::new(CloseReason::HandshakeTimeout).with_source(error));
            Err(error.into())
        }
        Err(Interrupted::Closed) => Err(RouteError::Cancelled.into()),
    }
}

/// Closes a connection that has no route.
async fn refuse<T: Transport>(mut connection: Connection<T>) -> RouteError {
    let (reason, error) = (CloseReason::Refused, RouteError::NoRoute);
    let close = Close::new(reason.clone()).with_source(error);
    connection.handle().close_with(close);
    // The peer receives the end of its protocol, such as a `close_notify`, and not a cut.
    let transport = connection.transport_mut();
    let closed = poll_fn(|cx| transport.poll_close(cx, &reason));
    let _ = time::timeout(REFUSAL_TIMEOUT, closed).await;
    error
}

pin_project! {
    /// Future of [`ConnectionRouter`].
    #[must_use = "futures do nothing unless polled"]
    pub struct RouteFuture<S, T>
    where
        S: Service<Connection<T>>,
    {
        // Boxed because it is short-lived.
        routing: Option<Contained<Routing<S, T>>>,
        #[pin]
        inner: Option<S::Future>,
    }
}

type Routing<S, T> = BoxFuture<'static, Result<(Contained<S>, Connection<T>), BoxError>>;

impl<S, T> Future for RouteFuture<S, T>
where
    S: Service<Connection<T>, Error: Into<BoxError>>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(routing) = this.routing {
            let routed = ready!(routing.as_mut().poll(cx));
            *this.routing = None;
            let (mut stack, connection) = routed?;
            this.inner.set(Some(stack.call(connection)));
        }
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll(cx).map_err(Into::into),
            None => panic!("a connection's future was polled after it was ready"),
        }
    }
}

impl<S, T> fmt::Debug for RouteFuture<S, T>
where
    S: Service<Connection<T>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture")
            .field("is_routed", &self.inner.is_some())
            .finish_non_exhaustive()
    }
}

/// Error of a [`ConnectionRouter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The connection has no key, or its key has no route.
    NoRoute,
    /// The stack of the route was not ready within this duration.
    NotReady(Duration),
    /// This side closed the connection through its handle before the stack was ready.
    Cancelled,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("the connection has no route"),
            Self::NotReady(timeout) => {
                write!(f, "the stack of the route was not ready within {timeout:?}")
            }
            Self::Cancelled => {
                f.write_str("the connection was closed before the stack of its route was ready")
            }
        }
    }
}

impl Error for RouteError {}
