//! getty's stacks. They must be the same as in its `echo` example.

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
        ActivityLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, MetricsLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer,
        WriteTimeoutLayer,
    },
    service_fn,
    session::SessionCodec,
};

use super::codec;
use crate::workload::pass_through::PassThroughLayer;

/// Limit of connections. It must be more than any case opens, so that the layer has its full
/// cost and refuses nothing.
const CONNECTIONS: usize = 100_000;
/// Limit of messages in flight. More than any case has.
const MESSAGES: usize = 100_000;

/// Number of calls of the close callback in the full stack.
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// A message of the echo.
pub trait Message: Deref<Target = [u8]> + From<&'static str> + Send + 'static {}

impl<M: Deref<Target = [u8]> + From<&'static str> + Send + 'static> Message for M {}

/// A handler that returns a message for each message.
pub trait Handler<M>:
    Service<Request<M>, Response = M, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

impl<M, S> Handler<M> for S where
    S: Service<Request<M>, Response = M, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

/// A codec that decodes the messages that it encodes.
pub trait Codec<M>: SessionCodec<M> + Decoder<Item = M> + Clone + Send + 'static {}

impl<M, C: SessionCodec<M> + Decoder<Item = M> + Clone + Send + 'static> Codec<M> for C {}

/// Creates a stack with codec and session loop.
pub fn bare<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    bare_around(codec::frames(), service_fn(echo))
}

/// Creates a stack with codec and session loop for a given handler.
pub fn bare_around<T, M>(codec: impl Codec<M>, handler: impl Handler<M>) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
    M: Message,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(codec))
        .layer(SessionLayer::new())
        .service(handler)
}

/// Creates a stack with codec and session loop with `Bytes` messages.
pub fn bytes<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    bare_around(codec::length_delimited(), service_fn(echo::<Bytes>))
}

/// Creates a stack with tower's layers outside and inside the session loop.
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

/// Creates a stack with the layers of a production server.
///
/// The heartbeat sends nothing in the first minute.
pub fn full<T: Transport + Send + 'static>() -> impl Pipeline<T> {
    full_around(codec::frames(), service_fn(echo))
}

/// Creates a stack with the layers of a production server for a given handler.
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
        .layer(IdleTimeoutLayer::new(Duration::from_secs(300)))
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
        .layer(ActivityLayer::new(|message: &M| !message.is_empty()))
        .service(handler)
}

/// Creates a stack with ten message layers that only forward.
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

/// Returns the message of the request.
///
/// # Errors
///
/// Never.
pub async fn echo<M>(request: Request<M>) -> Result<M, BoxError> {
    Ok(request.into_message())
}
