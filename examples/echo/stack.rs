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
        ActiveLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, MetricsLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer,
        WriteTimeoutLayer,
    },
    net::TcpListener,
    tls::{TlsLayer, TlsStream},
    ws::{WsLayer, WsTransport},
};
use tokio::net::TcpStream;

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

/// Where a stack over the transport `T` can be put: a listener, and the layers that its connections go through first.
pub(crate) trait Place<T> {
    fn serve(self, stack: impl Pipeline<T> + Clone) -> Serve;
}

/// A listener without more.
pub(crate) struct Plain<L>(pub(crate) L);

impl<L: Listener> Place<L::Io> for Plain<L> {
    fn serve(self, stack: impl Pipeline<L::Io> + Clone) -> Serve {
        getty::serve(self.0, stack)
    }
}

pub(crate) struct OverTls(pub(crate) TcpListener, pub(crate) TlsLayer);

impl Place<TlsStream<TcpStream>> for OverTls {
    fn serve(self, stack: impl Pipeline<TlsStream<TcpStream>> + Clone) -> Serve {
        getty::serve(self.0, self.1.layer(stack))
    }
}

pub(crate) struct OverWs(pub(crate) TcpListener, pub(crate) WsLayer);

impl Place<WsTransport<TcpStream>> for OverWs {
    fn serve(self, stack: impl Pipeline<WsTransport<TcpStream>> + Clone) -> Serve {
        getty::serve(self.0, self.1.layer(stack))
    }
}

pub(crate) struct OverWss(
    pub(crate) TcpListener,
    pub(crate) TlsLayer,
    pub(crate) WsLayer,
);

impl Place<WsTransport<TlsStream<TcpStream>>> for OverWss {
    fn serve(self, stack: impl Pipeline<WsTransport<TlsStream<TcpStream>>> + Clone) -> Serve {
        let Self(listener, tls, ws) = self;
        getty::serve(listener, tls.layer(ws.layer(stack)))
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
                place.serve(
                    ServiceBuilder::new()
                        .layer(TraceLayer::new())
                        .layer(MetricsLayer::new())
                        .concurrency_limit(100_000)
                        .layer(CatchPanicLayer::new())
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
