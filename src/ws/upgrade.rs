//! Sessions on connections that an HTTP server has upgraded: the server is a listener.

use std::{
    fmt,
    future::Future,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::{Address, CloseReason, Connection, Endpoints, TransportKind};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tower::BoxError;

use super::{WsHandshakeError, WsLayer, WsRefusal, WsTransport, layer::Settings};
use crate::net::Listener;

/// So many upgraded connections wait for the stack at most, as many as in a listener's backlog.
const BACKLOG: usize = 1024;

/// Two ends for an HTTP server that is already there: the upgrader answers its requests, and the listener gives the
/// connections that were upgraded to [`serve`](crate::serve), which runs a stack for them, waits for the stack to be
/// ready, and drains them at its shutdown, as it does with those of any listener.
///
/// `layer` says what is accepted and how, as it does in a stack; in the stack behind the listener it has no place.
///
/// With axum, or any other server on hyper:
///
/// ```
/// use std::net::SocketAddr;
/// use axum::{
///     Router, body::Body, extract::{ConnectInfo, Request, State}, response::Response, routing::any,
/// };
/// use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Text};
/// use getty::ws::{self, Messages, WsLayer, WsUpgrader};
/// use getty::layers::Endpoints;
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
/// // the program ends when the pages are served and the sessions are drained
/// let (drained, served) = tokio::join!(sessions.into_future(), pages.into_future());
/// # served?;
/// println!("{}", drained?);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn upgrades<Io>(layer: &WsLayer) -> (WsUpgrader<Io>, WsListener<Io>) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let upgrader = WsUpgrader {
        sender,
        settings: layer.settings(),
    };
    (upgrader, WsListener(receiver))
}

/// Answers requests for upgrades: one of the two ends that [`upgrades`] makes. Clones are the same one.
pub struct WsUpgrader<Io> {
    sender: mpsc::Sender<Connection<WsTransport<Io>>>,
    settings: Arc<Settings>,
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
    /// Decides on `request` and gives the answer that the HTTP server is to send; `io` resolves to the upgraded
    /// connection once the server has sent it, and `endpoints` are what the session says of its addresses: a server knows
    /// its peer, a request does not. An [`Unknown`](TransportKind::Unknown) kind is told as WebSocket.
    ///
    /// An [accept hook](WsLayer::with_accept) sees the request with its extensions, and so what the server's own layers
    /// have found out: whoever has logged in, say, is handed to the session by an
    /// [insert](crate::ConnectionHandle::insert) there. The answer is the caller's before it is sent: headers, such as
    /// cookies, can still be added.
    ///
    /// Where it accepts, a task waits for `io`, as long as a handshake may take, and gives the connection to the
    /// listener. With 503 it refuses once the listener is gone, because the server shuts down, and while as many
    /// connections wait for the stack as a backlog holds.
    ///
    /// # Cancel safety
    ///
    /// A drop before the answer refuses the connection: nothing is left of it, and no task runs.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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
        // taken out here: bodies cannot be shared between threads, and so no reference to one goes into the future
        let mut asked = Request::new(());
        asked.method_mut().clone_from(request.method());
        asked.uri_mut().clone_from(request.uri());
        *asked.version_mut() = request.version();
        asked.headers_mut().clone_from(request.headers());
        asked.extensions_mut().clone_from(request.extensions());
        self.clone().decide(asked, endpoints, io)
    }

    async fn decide<F, E>(self, asked: Request<()>, endpoints: Endpoints, io: F) -> Response<String>
    where
        F: Future<Output = Result<Io, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let Ok(place) = self.sender.try_reserve_owned() else {
            return WsRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no more WebSockets are opened now",
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
        let decided = self.settings.rules.decide(asked, &handle);
        let decided = timeout(self.settings.timeout, decided).await;
        let response = match decided {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => {
                let response = refusal.response();
                handle.close_because(CloseReason::Refused, WsHandshakeError::from(refusal));
                return response;
            }
            Err(_) => {
                let error = WsHandshakeError::TimedOut(self.settings.timeout);
                handle.close_because(CloseReason::HandshakeTimeout, error);
                let refusal = WsRefusal::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "it took too long to decide",
                );
                return refusal.response();
            }
        };
        let settings = Arc::clone(&self.settings);
        tokio::spawn(async move {
            match timeout(settings.timeout, io).await {
                Ok(Ok(io)) => {
                    let connection = connection.map_transport(|()| {
                        WsTransport::new(io, settings.transport(), BytesMut::new())
                    });
                    // without a listener it is dropped, and refused by that
                    place.send(connection);
                }
                Ok(Err(error)) => {
                    let error = io::Error::other(error.into());
                    handle.close_because(CloseReason::Refused, WsHandshakeError::from(error));
                }
                Err(_) => {
                    let error = WsHandshakeError::TimedOut(settings.timeout);
                    handle.close_because(CloseReason::HandshakeTimeout, error);
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

/// The connections that a [`WsUpgrader`] has upgraded: one of the two ends that [`upgrades`] makes.
///
/// Dropped, as [`serve`](crate::serve) does when it shuts down, further upgrades are refused.
pub struct WsListener<Io>(mpsc::Receiver<Connection<WsTransport<Io>>>);

impl<Io: Send + 'static> Listener for WsListener<Io> {
    type Io = WsTransport<Io>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        match ready!(self.0.poll_recv(cx)) {
            Some(connection) => Poll::Ready(Ok(connection)),
            // no upgrader is left: nothing comes any more, which is no error
            None => Poll::Pending,
        }
    }

    /// Not known: it is the HTTP server's.
    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unknown)
    }
}

impl<Io> fmt::Debug for WsListener<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsListener").finish_non_exhaustive()
    }
}
