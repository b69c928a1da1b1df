//! The stacks of `--stack`, and where they can be put.

use std::{
    future::ready,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Layer, Listener, Pipeline, Reply, Request, Serve, ServiceBuilder,
    SessionLayer, Transport,
    codec::{Decoder, Encoder},
    layers::{
        ActiveLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HandshakeTimeoutLayer,
        HeartbeatLayer, IdleTimeoutLayer, MetricsLayer, PeerLimitLayer, ReadTimeoutLayer, Registry,
        RegistryLayer, TraceLayer, WriteTimeoutLayer,
    },
    tls::{TlsLayer, TlsStream},
    transport::ByteStream,
    ws::{WsLayer, WsTransport},
};

/// How many connections of `--stack full` have closed.
pub(crate) static CLOSED: AtomicU64 = AtomicU64::new(0);

/// Which stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Tower,
    Full,
}

/// A codec that can be echoed: it encodes what it decodes.
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

/// A listener, and the layers that make the transport `T` of its connections.
pub(crate) trait Place<T>: Sized {
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

    /// Serves with layers that watch and limit connections, outside the handshakes of TLS and
    /// WebSocket.
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
/// Maximum connections of an address at one listener.
const PEER_LIMIT: u32 = 20_000;

/// A listener without more.
pub(crate) struct Plain<L>(pub(crate) L);

impl<L: Listener> Place<L::Io> for Plain<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<L::Io> + Clone,
    {
        (self.0, stack)
    }
}

pub(crate) struct OverTls<L>(pub(crate) L, pub(crate) TlsLayer);

impl<L: Listener<Io: ByteStream>> Place<TlsStream<L::Io>> for OverTls<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<TlsStream<L::Io>> + Clone,
    {
        (self.0, self.1.layer(stack))
    }
}

pub(crate) struct OverWs<L>(pub(crate) L, pub(crate) WsLayer);

impl<L: Listener<Io: ByteStream>> Place<WsTransport<L::Io>> for OverWs<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<WsTransport<L::Io>> + Clone,
    {
        (self.0, self.1.layer(stack))
    }
}

pub(crate) struct OverWss<L>(pub(crate) L, pub(crate) TlsLayer, pub(crate) WsLayer);

impl<L: Listener<Io: ByteStream>> Place<WsTransport<TlsStream<L::Io>>> for OverWss<L> {
    type Listener = L;

    fn wrap<S>(self, stack: S) -> (L, impl Pipeline<L::Io> + Clone)
    where
        S: Pipeline<WsTransport<TlsStream<L::Io>>> + Clone,
    {
        let Self(listener, tls, ws) = self;
        (listener, tls.layer(ws.layer(stack)))
    }
}

/// Sends back what its codec decodes.
pub(crate) struct Echo<C: Codec> {
    codec: C,
    /// A message that means nothing, if there is one.
    beat: Option<C::Message>,
}

impl<C: Codec> Echo<C> {
    pub(crate) const fn new(codec: C, beat: Option<C::Message>) -> Self {
        Self { codec, beat }
    }

    pub(crate) fn serve<T>(&self, kind: Kind, place: impl Place<T>) -> Serve
    where
        T: Transport + Send + 'static,
    {
        let (codec, beat) = (self.codec.clone(), self.beat.clone());
        // ready at once, so that a message never leaves its session's loop
        let echo = |request: Request<C::Message>| {
            ready(Ok::<_, BoxError>(Reply::one(request.into_message())))
        };
        match kind {
            Kind::Bare => place.serve(
                ServiceBuilder::new()
                    .layer(CodecLayer::new(codec))
                    .layer(SessionLayer::new())
                    .service_fn(echo),
            ),
            Kind::Tower => place.serve(
                ServiceBuilder::new()
                    .concurrency_limit(100_000)
                    .layer(CodecLayer::new(codec))
                    .layer(SessionLayer::new())
                    .timeout(Duration::from_secs(30))
                    .load_shed()
                    .concurrency_limit(1024)
                    .service_fn(echo),
            ),
            Kind::Full => {
                let sent = beat.clone();
                place.serve_guarded(
                    ServiceBuilder::new()
                        .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
                        .layer(ReadTimeoutLayer::new(Duration::from_secs(30)))
                        // not of all bytes: our own beats are some
                        .layer(IdleTimeoutLayer::read(Duration::from_secs(300)))
                        .layer(CodecLayer::new(codec))
                        .layer(RegistryLayer::new(Registry::new()))
                        .layer(HeartbeatLayer::new_if(
                            Duration::from_secs(60),
                            move |_session| sent.clone(),
                        ))
                        .layer(CloseCallbackLayer::new("echo", "closed", |_closed| {
                            CLOSED.fetch_add(1, Relaxed);
                        }))
                        .layer(SessionLayer::new())
                        .layer(HandleErrorLayer::new(|_error| None))
                        .layer(ActiveLayer::new(move |message| {
                            beat.as_ref() != Some(message)
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

    /// The connections that a test makes.
    struct Made(mpsc::UnboundedReceiver<Connection<DuplexStream>>);

    impl Listener for Made {
        type Io = DuplexStream;

        fn poll_accept(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<Connection<DuplexStream>>> {
            let connection = self.0.poll_recv(cx);
            connection.map(|connection| Ok(connection.expect("the test goes on")))
        }

        fn local_addr(&self) -> io::Result<Address> {
            Ok(Address::Unknown)
        }
    }

    /// A peer at this address.
    fn dial(
        listener: &mpsc::UnboundedSender<Connection<DuplexStream>>,
        peer: SocketAddr,
    ) -> (DuplexStream, ConnectionHandle) {
        let (ours, theirs) = duplex(64);
        let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.into());
        let connection = Connection::with_endpoints(ours, endpoints);
        let handle = connection.handle().clone();
        assert!(listener.send(connection).is_ok());
        (theirs, handle)
    }

    fn echo() -> Echo<Lines> {
        Echo::new(Lines::new(), Some(String::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_full_stack_gives_a_handshake_ten_seconds() {
        let hour = Duration::from_secs(3600);
        let tls = TlsLayer::new(crate::tls::Files::default().load().unwrap());
        let tls = tls.with_handshake_timeout(hour);
        let ws = WsLayer::new().with_handshake_timeout(hour);
        for kind in [Kind::Bare, Kind::Full] {
            let (dials, dialled) = mpsc::unbounded_channel();
            let place = OverWss(Made(dialled), tls.clone(), ws.clone());
            tokio::spawn(echo().serve(kind, place).into_future());
            let began = Instant::now();
            let (_peer, handle) = dial(&dials, "192.0.2.1:7".parse().unwrap());
            let closed = handle.closed().await;
            assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
            let expected = if kind == Kind::Full {
                HANDSHAKE_TIMEOUT
            } else {
                hour
            };
            assert_eq!(began.elapsed(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_full_stack_refuses_an_address_with_too_many_connections() {
        let (dials, dialled) = mpsc::unbounded_channel();
        tokio::spawn(echo().serve(Kind::Full, Plain(Made(dialled))).into_future());
        let crowd: Vec<_> = (0..PEER_LIMIT)
            .map(|_| dial(&dials, "192.0.2.1:7".parse().unwrap()))
            .collect();
        let (_, surplus) = dial(&dials, "192.0.2.1:8".parse().unwrap());
        assert_eq!(surplus.closed().await.reason, CloseReason::Refused);
        assert!(crowd.iter().all(|(_, handle)| handle.is_open()));

        let (mut other, _) = dial(&dials, "192.0.2.2:7".parse().unwrap());
        other.write_all(b"hello\n").await.unwrap();
        let mut answer = [0; 6];
        other.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello\n");
    }
}
