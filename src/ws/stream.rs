//! `as_stream`: layers that turn WebSocket messages into a byte stream.

use std::task::{Context, Poll};

use getty_core::Connection;
use tower::{Layer, Service, layer::util::Stack, util::MapResponseLayer};

use super::{WsConnectLayer, WsLayer, WsStream, WsTransport};

impl WsLayer {
    /// Turns the messages into a byte stream, for protocols that use WebSocket as a tunnel, such as
    /// MQTT and STOMP. Every codec for byte streams works over it; see [`WsStream`].
    ///
    /// ```
    /// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
    /// use getty::{codec::Lines, net, ws::WsLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let app = ServiceBuilder::new()
    ///     .layer(WsLayer::new().with_protocols(["lines"]).as_stream())
    ///     .layer(CodecLayer::new(Lines::new()))
    ///     .layer(SessionLayer::new())
    ///     .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
    /// let listener = net::TcpListener::bind("127.0.0.1:0").await?;
    /// let _serve = getty::serve(listener, app);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn as_stream(self) -> Stack<AsStreamLayer, Self> {
        Stack::new(AsStreamLayer(()), self)
    }
}

/// Function that turns a connection's messages into a stream.
type IntoStream<T> = fn(Connection<WsTransport<T>>) -> Connection<WsStream<T>>;

impl WsConnectLayer {
    /// Turns the messages into a byte stream; see [`WsStream`].
    ///
    /// ```no_run
    /// use getty::{net::TcpConnector, ws::WsConnectLayer};
    /// use getty::tower::{Layer, ServiceExt};
    ///
    /// # async fn dial() -> Result<(), getty::BoxError> {
    /// let connector = WsConnectLayer::new()
    ///     .with_protocols(["mqtt"])
    ///     .as_stream()
    ///     .layer(TcpConnector::new());
    /// let connection = connector.oneshot("ws://127.0.0.1:8083/mqtt").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn as_stream<T>(self) -> Stack<Self, MapResponseLayer<IntoStream<T>>> {
        Stack::new(self, MapResponseLayer::new(WsStream::connection))
    }
}

/// Layer that turns the messages of a WebSocket into a byte stream. [`WsLayer::as_stream`]
/// creates it.
#[derive(Clone, Debug)]
pub struct AsStreamLayer(());

impl<S> Layer<S> for AsStreamLayer {
    type Service = AsStream<S>;

    fn layer(&self, inner: S) -> AsStream<S> {
        AsStream(inner)
    }
}

/// Service that [`AsStreamLayer`] creates.
#[derive(Clone, Debug)]
pub struct AsStream<S>(S);

impl<S, T> Service<Connection<WsTransport<T>>> for AsStream<S>
where
    S: Service<Connection<WsStream<T>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<WsTransport<T>>) -> S::Future {
        self.0.call(WsStream::connection(connection))
    }
}
