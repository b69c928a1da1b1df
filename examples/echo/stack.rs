//! The stacks of `--stack`, and the transports that they can be served on.

use std::{
    future::ready,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Layer, Listener, Pipeline, Reply, Request, Serve, ServiceBuilder,
    SessionLayer, Transport,
    codec::{Decoder, Encoder},
    compress::{Compressed, CompressionLayer},
    layers::{
        ActivityLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer,
        HandshakeTimeoutLayer, HeartbeatLayer, IdleTimeoutLayer, MetricsLayer, PeerLimitLayer,
        ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer, WriteTimeoutLayer,
    },
    tls::{TlsLayer, TlsStream},
    transport::ByteStream,
    ws::{WsLayer, WsTransport},
};

/// Number of connections of `--stack full` that have closed.
pub(crate) static CLOSED: AtomicU64 = AtomicU64::new(0);

/// The values of `--stack`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StackKind {
    /// Codec and session loop.
    Bare,
    /// Also tower's limits and timeouts.
    Tower,
    /// Also the layers of a production server.
    Full,
}

/// A codec for an echo: it encodes the same type of message that it decodes.
pub(crate) trait Codec:
    Decoder<Item = Self::Message, Error: Into<BoxError>>
    + Encoder<Self::Message, Error: Into<BoxError>>
    + Clone
    + Send
    + 'static
{
    type Message: Clone + PartialEq + Send + Sync + 'static;
}

impl<C> Codec for C
where
    C: Decoder<Item: Clone + PartialEq + Send + Sync + 'static, Error: Into<BoxError>>
        + Encoder<C::Item, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
{
    type Message = C::Item;
}

/// A listener with the layers that turn its connections into the transport `T`.
pub(crate) trait Endpoint<T>: Sized {
    type Listener: Listener;

    /// Wraps `stack` in the layers of the transport.
    fn wrap<S>(
        self,
        stack: S,
    ) -> (
        Self::Listener,
        impl Pipeline<<Self::Listener as Listener>::Io> + Clone,
    )
    where
        S: Pipeline<T> + Clone;

    fn serve(self, stack: impl Pipeline<T> + Clone) -> Serve {
        let (listener, stack) = self.wrap(stack);
        getty::serve(listener, stack)
    }

    /// Serves `stack` with the layers that observe and limit connections. They are outside the TLS
    /// and WebSocket layers, so that they include the handshakes.
    fn serve_guarded(self, stack: impl Pipeline<T> + Clone) -> Serve {
        let (listener, stack) = self.wrap(stack);
        let guarded = ServiceBuilder::new()
            .layer(TraceLayer::new())
            .layer(MetricsLayer::new())
            .layer(HandshakeTimeoutLayer::new(HANDSHAKE_TIMEOUT))
            .concurrency_limit(100_000)
            .layer(PeerLimitLayer::new(PEER_LIMIT))
            .layer(CatchPanicLayer::new())
            .service(stack);
        getty::serve(listener, guarded)
    }
}

/// Maximum time from accept to an open session.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of connections from one IP address at one listener.
const PEER_LIMIT: u32 = 20_000;

/// A listener without further layers.
pub(crate) struct Plain<L>(pub(crate) L);

impl<L: Listener> Endpoint<L::Io> for Plain<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<L::Io> + Clone,
    {
        (self.0, stack)
    }
}

/// A listener with TLS.
pub(crate) struct OverTls<L>(pub(crate) L, pub(crate) TlsLayer);

impl<L: Listener<Io: ByteStream>> Endpoint<TlsStream<L::Io>> for OverTls<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<TlsStream<L::Io>> + Clone,
    {
        (self.0, self.1.layer(stack))
    }
}

/// A listener of byte streams with compression.
pub(crate) struct OverCompression<E>(pub(crate) E, pub(crate) CompressionLayer);

impl<E: Endpoint<T>, T: ByteStream> Endpoint<Compressed<T>> for OverCompression<E> {
    type Listener = E::Listener;

    fn wrap<S>(
        self,
        stack: S,
    ) -> (
        Self::Listener,
        impl Pipeline<<Self::Listener as Listener>::Io> + Clone,
    )
    where
        S: Pipeline<Compressed<T>> + Clone,
    {
        self.0.wrap(self.1.layer(stack))
    }
}

/// A listener with WebSocket.
pub(crate) struct OverWs<L>(pub(crate) L, pub(crate) WsLayer);

impl<L: Listener<Io: ByteStream>> Endpoint<WsTransport<L::Io>> for OverWs<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<WsTransport<L::Io>> + Clone,
    {
        (self.0, self.1.layer(stack))
    }
}

/// A listener with WebSocket over TLS.
pub(crate) struct OverWss<L>(pub(crate) L, pub(crate) TlsLayer, pub(crate) WsLayer);

impl<L: Listener<Io: ByteStream>> Endpoint<WsTransport<TlsStream<L::Io>>> for OverWss<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<WsTransport<TlsStream<L::Io>>> + Clone,
    {
        let Self(listener, tls, ws) = self;
        (listener, tls.layer(ws.layer(stack)))
    }
}

/// Sends each decoded message back.
pub(crate) struct Echo<C: Codec> {
    codec: C,
    /// The message that `--stack full` sends as a heartbeat. It is `None` if every message of the
    /// codec carries data.
    heartbeat: Option<C::Message>,
}

impl<C: Codec> Echo<C> {
    pub(crate) const fn new(codec: C, heartbeat: Option<C::Message>) -> Self {
        Self { codec, heartbeat }
    }

    /// Serves the stack of `kind` at an endpoint of byte streams, with compression if there is a
    /// layer.
    pub(crate) fn serve_stream<T: ByteStream>(
        &self,
        kind: StackKind,
        endpoint: impl Endpoint<T>,
        compression: Option<&CompressionLayer>,
    ) -> Serve {
        match compression {
            Some(layer) => self.serve(kind, OverCompression(endpoint, layer.clone())),
            None => self.serve(kind, endpoint),
        }
    }

    /// Serves the stack of `kind` at `endpoint`.
    pub(crate) fn serve<T>(&self, kind: StackKind, endpoint: impl Endpoint<T>) -> Serve
    where
        T: Transport + Send + 'static,
    {
        let (codec, heartbeat) = (self.codec.clone(), self.heartbeat.clone());
        // A future that is ready at once can complete within the session loop.
        let echo = |request: Request<C::Message>| {
            ready(Ok::<_, BoxError>(Reply::one(request.into_message())))
        };
        match kind {
            StackKind::Bare => endpoint.serve(
                ServiceBuilder::new()
                    .layer(CodecLayer::new(codec))
                    .layer(SessionLayer::new())
                    .service_fn(echo),
            ),
            StackKind::Tower => endpoint.serve(
                ServiceBuilder::new()
                    .concurrency_limit(100_000)
                    .layer(CodecLayer::new(codec))
                    .layer(SessionLayer::new())
                    .timeout(Duration::from_secs(30))
                    .load_shed()
                    .concurrency_limit(1024)
                    .service_fn(echo),
            ),
            StackKind::Full => {
                let sent = heartbeat.clone();
                endpoint.serve_guarded(
                    ServiceBuilder::new()
                        .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
                        .layer(ReadTimeoutLayer::new(Duration::from_secs(30)))
                        // `read` and not `all`, which would count the server's own heartbeats.
                        .layer(IdleTimeoutLayer::new(Duration::from_secs(300)))
                        .layer(CodecLayer::new(codec))
                        .layer(RegistryLayer::new(Registry::new()))
                        .layer(HeartbeatLayer::optional(
                            Duration::from_secs(60),
                            move |_session| sent.clone(),
                        ))
                        .layer(CloseCallbackLayer::new("echo", "closed", |_closed| {
                            CLOSED.fetch_add(1, Relaxed);
                        }))
                        .layer(SessionLayer::new())
                        .layer(HandleErrorLayer::new(|_error| None))
                        .layer(ActivityLayer::new(move |message| {
                            heartbeat.as_ref() != Some(message)
                        }))
                        .service_fn(echo),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::SocketAddr,
        task::{Context, Poll},
    };

    use getty::{
        Address, CloseReason, Connection, ConnectionHandle, Endpoints, TransportKind, codec::Lines,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::mpsc,
        time::Instant,
    };

    use super::*;

    /// A listener that accepts the connections of a channel.
    struct ChannelListener(mpsc::UnboundedReceiver<Connection<DuplexStream>>);

    impl Listener for ChannelListener {
        type Io = DuplexStream;

        fn poll_accept(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<Connection<DuplexStream>>> {
            let connection = self.0.poll_recv(cx);
            connection.map(|connection| Ok(connection.expect("the test holds the sender")))
        }

        fn local_addr(&self) -> io::Result<Address> {
            Ok(Address::Unknown)
        }
    }

    /// Connects from the address `peer`. Returns the peer's stream and the server's handle.
    fn connect(
        listener: &mpsc::UnboundedSender<Connection<DuplexStream>>,
        peer: SocketAddr,
    ) -> (DuplexStream, ConnectionHandle) {
        let (server_stream, peer_stream) = duplex(64);
        let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.into());
        let connection = Connection::with_endpoints(server_stream, endpoints);
        let handle = connection.handle().clone();
        assert!(listener.send(connection).is_ok());
        (peer_stream, handle)
    }

    fn echo() -> Echo<Lines> {
        Echo::new(Lines::new(), Some(String::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn full_stack_ends_a_handshake_after_ten_seconds() {
        let hour = Duration::from_secs(3600);
        let tls = TlsLayer::new(crate::tls::Files::default().load().unwrap());
        let tls = tls.with_handshake_timeout(hour);
        let ws = WsLayer::new().with_handshake_timeout(hour);
        for kind in [StackKind::Bare, StackKind::Full] {
            let (connections, accepted) = mpsc::unbounded_channel();
            let endpoint = OverWss(ChannelListener(accepted), tls.clone(), ws.clone());
            tokio::spawn(echo().serve(kind, endpoint).into_future());
            let start = Instant::now();
            let (_peer, handle) = connect(&connections, "192.0.2.1:7".parse().unwrap());
            let closed = handle.closed().await;
            assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
            let expected = if kind == StackKind::Full {
                HANDSHAKE_TIMEOUT
            } else {
                hour
            };
            assert_eq!(start.elapsed(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn full_stack_limits_the_connections_of_an_address() {
        let (connections, accepted) = mpsc::unbounded_channel();
        let endpoint = Plain(ChannelListener(accepted));
        tokio::spawn(echo().serve(StackKind::Full, endpoint).into_future());
        let admitted: Vec<_> = (0..PEER_LIMIT)
            .map(|_| connect(&connections, "192.0.2.1:7".parse().unwrap()))
            .collect();
        let (_, refused) = connect(&connections, "192.0.2.1:8".parse().unwrap());
        assert_eq!(refused.closed().await.reason, CloseReason::Refused);
        assert!(admitted.iter().all(|(_, handle)| handle.is_open()));

        let (mut other, _) = connect(&connections, "192.0.2.2:7".parse().unwrap());
        other.write_all(b"hello\n").await.unwrap();
        let mut reply = [0; 6];
        other.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"hello\n");
    }
}
