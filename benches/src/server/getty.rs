//! getty, with the stacks of its `echo` example.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, CodecLayer, Pipeline, Request, Service, ServiceBuilder, SessionLayer, Transport,
    codec::{Decoder, Frame},
    layers::{
        ActiveLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, MetricsLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer,
        WriteTimeoutLayer,
    },
    service_fn,
    session::SessionCodec,
};

use super::codec;
use crate::pass_through::PassThroughLayer;

/// More connections than any case opens, so that the limit costs what it costs and refuses nobody.
const CONNECTIONS: usize = 100_000;
/// More messages than are ever handled at once.
const MESSAGES: usize = 100_000;

/// What the close callback of the full stack does: it counts.
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// What is sent back and forth.
pub trait Message: Deref<Target = [u8]> + From<&'static str> + Send + 'static {}

impl<M: Deref<Target = [u8]> + From<&'static str> + Send + 'static> Message for M {}

/// What is behind a stack: of one message it makes another.
pub trait Handler<M>:
    Service<Request<M>, Response = M, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

impl<M, S> Handler<M> for S where
    S: Service<Request<M>, Response = M, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

/// A codec that decodes what it encodes.
pub trait Codec<M>: SessionCodec<M> + Decoder<Item = M> + Clone + Send + 'static {}

impl<M, C: SessionCodec<M> + Decoder<Item = M> + Clone + Send + 'static> Codec<M> for C {}

/// Codec and session loop.
pub fn bare<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    bare_around(codec::frames(), service_fn(echo))
}

/// Codec and session loop, around this handler.
pub fn bare_around<T, M>(codec: impl Codec<M>, handler: impl Handler<M>) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    M: Message,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(codec))
        .layer(SessionLayer::new())
        .service(handler)
}

/// Codec and session loop, where each message is `Bytes`.
pub fn bytes<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    bare_around(codec::length(), service_fn(echo::<Bytes>))
}

/// With tower's own layers on either side of the session loop.
pub fn tower<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    ServiceBuilder::new()
        .concurrency_limit(CONNECTIONS)
        .layer(CodecLayer::new(codec::frames()))
        .layer(SessionLayer::new())
        .load_shed()
        .concurrency_limit(MESSAGES)
        .timeout(Duration::from_secs(5))
        .service(service_fn(echo::<Frame>))
}

/// What a production server has around the session loop. Nothing is sent unasked for in the first minute.
pub fn full<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    full_around(codec::frames(), service_fn(echo))
}

/// What a production server has around the session loop, around this handler.
pub fn full_around<T, M>(codec: impl Codec<M>, handler: impl Handler<M>) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    M: Message,
{
    ServiceBuilder::new()
        .layer(TraceLayer::new())
        .layer(MetricsLayer::new())
        .concurrency_limit(CONNECTIONS)
        .layer(CatchPanicLayer::new())
        .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
        .layer(ReadTimeoutLayer::new(Duration::from_secs(30)))
        .layer(IdleTimeoutLayer::read(Duration::from_secs(300)))
        .layer(CodecLayer::new(codec))
        .layer(RegistryLayer::new(Registry::new()))
        .layer(HeartbeatLayer::new(Duration::from_secs(60), |_session| {
            M::from("")
        }))
        .layer(CloseCallbackLayer::new("benches", "closed", |_closed| {
            CLOSED.fetch_add(1, Relaxed);
        }))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|_error| None))
        .layer(ActiveLayer::new(|message: &M| !message.is_empty()))
        .service(handler)
}

/// With ten message layers that only pass on.
pub fn ten_layers<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    let five = || {
        ServiceBuilder::new()
            .layer(PassThroughLayer)
            .layer(PassThroughLayer)
            .layer(PassThroughLayer)
            .layer(PassThroughLayer)
            .layer(PassThroughLayer)
    };
    ServiceBuilder::new()
        .layer(CodecLayer::new(codec::frames()))
        .layer(SessionLayer::new())
        .layer(five())
        .layer(five())
        .service(service_fn(echo::<Frame>))
}

async fn echo<M>(request: Request<M>) -> Result<M, BoxError> {
    Ok(request.into_message())
}
