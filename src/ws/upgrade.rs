//! Sessions on connections that an HTTP server has upgraded.

use std::{
    fmt,
    future::Future,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::{
    Address, Close, CloseReason, Connection, Endpoints, TransportKind, hooks::HandleExt,
};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tower::BoxError;

use super::{
    handshake::{ServerSettings, WsHandshakeError, WsRefusal},
    layer::WsLayer,
    transport::WsTransport,
};
use crate::net::Listener;

/// Maximum number of upgraded connections that wait for the stack. It equals a listener's
/// backlog.
const BACKLOG: usize = 1024;

/// Creates an upgrader and a listener, for an existing HTTP server.
///
/// The [`WsUpgrader`] answers the server's upgrade requests. The [`WsListener`] passes upgraded
/// connections to [`serve`](crate::serve). As for every listener, `serve` polls the stack's
/// readiness before it accepts. It drains the sessions at its shutdown.
///
/// `layer` determines which requests are accepted. It must not be part of the stack behind the
/// listener.
///
/// With axum, or any other server on hyper:
///
/// ```
/// use axum::{
///     Router, body::Body, extract::{ConnectInfo, Request, State}, response::Response,
///     routing::any,
/// };
/// use std::net::SocketAddr;
/// use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Text};
/// use getty::ws::{self, Messages, WsLayer, WsUpgrader};
/// use getty::Endpoints;
/// use hyper_util::rt::TokioIo;
///
/// type Io = TokioIo<hyper::upgrade::Upgraded>;
///
/// async fn open(
///     State(upgrader): State<WsUpgrader<Io>>,
///     ConnectInfo(peer): ConnectInfo<SocketAddr>,
///     mut request: Request,
/// ) -> Response {
///     let upgraded = hyper::upgrade::on(&mut request);
///     let io = async { upgraded.await.map(TokioIo::new) };
///     let endpoints = Endpoints { peer: peer.into(), ..Endpoints::default() };
///     upgrader.upgrade(&request, endpoints, io).await.map(Body::from)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let echo = ServiceBuilder::new()
///     .layer(CodecLayer::new(Text::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: getty::Request<String>| async move {
///         Ok::<_, BoxError>(request.into_message())
///     });
/// let (upgrader, upgrades) = ws::upgrades(&WsLayer::new().with_messages(Messages::Text));
/// let sessions = getty::serve(upgrades, echo).with_graceful_shutdown(async { /* the signal */ });
///
/// let app = Router::new()
///     .route("/ws", any(open))
///     .with_state(upgrader)
///     .into_make_service_with_connect_info::<SocketAddr>();
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let pages = axum::serve(listener, app).with_graceful_shutdown(async { /* the same signal */ });
///
/// // Ends when all requests are answered and the sessions are drained.
/// let (drained, served) = tokio::join!(sessions.into_future(), pages.into_future());
/// # served?;
/// println!("{}", drained?);
/// # Ok(())
/// # }
/// ```
// (design.md: Why is an HTTP server a listener?)
#[must_use]
pub fn upgrades<Io>(layer: &WsLayer) -> (WsUpgrader<Io>, WsListener<Io>) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let upgrader = WsUpgrader {
        sender,
        settings: layer.settings(),
    };
    (upgrader, WsListener(receiver))
}

/// Answers upgrade requests of an HTTP server; see [`upgrades`]. Clones share the listener.
pub struct WsUpgrader<Io> {
    sender: mpsc::Sender<Connection<WsTransport<Io>>>,
    settings: Arc<ServerSettings>,
}

impl<Io> Clone for WsUpgrader<Io> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            settings: Arc::clone(&self.settings),
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static> WsUpgrader<Io> {
    /// Decides on `request` and returns the response that the HTTP server must send.
    ///
    /// `io` must resolve to the upgraded connection once the server has sent the response.
    /// `endpoints` are the addresses of the session; a server knows its peer, a request does not.
    /// The kind [`Unknown`](TransportKind::Unknown) is replaced by WebSocket.
    ///
    /// An [accept hook](WsLayer::with_accept) sees the request with its extensions. So it also sees
    /// the results of the server's middleware, such as the user. It can pass them on to the session
    /// with an [insert](crate::ConnectionHandle::insert). The caller may still change the response,
    /// for example to add cookies.
    ///
    /// After an accepted request a task waits for `io` and passes the connection to the listener.
    /// It waits at most for the handshake timeout. The response is 503 once the server shuts down
    /// and has dropped the listener. It is also 503 while a full backlog of connections waits for
    /// the stack.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before its response refuses the connection. No task is left.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn upgrade<B, F, E>(
        &self,
        request: &Request<B>,
        endpoints: Endpoints,
        io: F,
    ) -> impl Future<Output = Response<String>> + Send + use<Io, B, F, E>
    where
        F: Future<Output = Result<Io, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        // Copied without the body. A body cannot be shared between threads, so the future must not
        // hold a reference to the request.
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        *head.version_mut() = request.version();
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        self.clone().decide(head, endpoints, io)
    }

    async fn decide<F, E>(self, head: Request<()>, endpoints: Endpoints, io: F) -> Response<String>
    where
        F: Future<Output = Result<Io, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let Ok(permit) = self.sender.try_reserve_owned() else {
            return WsRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server accepts no WebSockets now",
            )
            .response();
        };
        let connection = Connection::with_endpoints((), endpoints);
        let handle = connection.handle().clone();
        handle.set_transport(match handle.transport() {
            TransportKind::Unknown | TransportKind::Tcp => TransportKind::WebSocket,
            TransportKind::Tls => TransportKind::SecureWebSocket,
            other => other,
        });
        let decided = self.settings.decide(head, &handle);
        let decided = timeout(self.settings.timeout, decided).await;
        let (response, deflate) = match decided {
            Ok(Ok(decided)) => decided,
            Ok(Err(refusal)) => {
                let response = refusal.response();
                handle.close_with(
                    Close::new(CloseReason::Refused).with_source(WsHandshakeError::from(refusal)),
                );
                return response;
            }
            Err(_) => {
                let error = WsHandshakeError::TimedOut(self.settings.timeout);
                handle.close_with(Close::new(CloseReason::HandshakeTimeout).with_source(error));
                let refusal = WsRefusal::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the decision took too long",
                );
                return refusal.response();
            }
        };
        let settings = Arc::clone(&self.settings);
        tokio::spawn(async move {
            match timeout(settings.timeout, io).await {
                Ok(Ok(io)) => {
                    let connection = connection.map_transport(|()| {
                        WsTransport::new(io, settings.transport(), deflate, BytesMut::new())
                    });
                    // Without a listener the connection is dropped, which refuses it.
                    permit.send(connection);
                }
                Ok(Err(error)) => {
                    let error = io::Error::other(error.into());
                    handle.close_with(
                        Close::new(CloseReason::Refused).with_source(WsHandshakeError::from(error)),
                    );
                }
                Err(_) => {
                    let error = WsHandshakeError::TimedOut(settings.timeout);
                    handle.close_with(Close::new(CloseReason::HandshakeTimeout).with_source(error));
                }
            }
        });
        response.map(|()| String::new())
    }
}

impl<Io> fmt::Debug for WsUpgrader<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsUpgrader")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Listener for the connections of a [`WsUpgrader`]; see [`upgrades`].
///
/// Once it is dropped, further upgrades are refused. [`serve`](crate::serve) drops it at its
/// shutdown.
pub struct WsListener<Io>(mpsc::Receiver<Connection<WsTransport<Io>>>);

impl<Io: Send + 'static> Listener for WsListener<Io> {
    type Io = WsTransport<Io>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        match ready!(self.0.poll_recv(cx)) {
            Some(connection) => Poll::Ready(Ok(connection)),
            // All upgraders are gone. No connection will come, which is not an error.
            None => Poll::Pending,
        }
    }

    /// Returns `Unknown`: the address is the HTTP server's.
    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unknown)
    }
}

impl<Io> fmt::Debug for WsListener<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsListener").finish_non_exhaustive()
    }
}
