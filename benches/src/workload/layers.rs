//! Stacks with a single layer. They show the cost of the layer.
//!
//! Each stack is type-erased. That costs an allocation for each connection and an indirect call
//! for each poll. The cost must be the same for all stacks.

use std::{
    fmt,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, BoxPipeline, Closed, CodecLayer, Connection, Endpoints, IntoReply, Layer,
    MemoryBudget, Pipeline, Request, Service, Session, SessionLayer, TransportKind,
    codec::LengthDelimited,
    layers::{
        AccessLayer, ActivityLayer, CatchPanicLayer, CloseCallbackLayer, Correlate, CorrelateLayer,
        HandleErrorLayer, HandshakeTimeoutLayer, HeartbeatLayer, IdleTimeoutLayer, IntervalLayer,
        MaxAgeLayer, MessageMetricsLayer, MessageTraceLayer, MetricsLayer, OnOpenLayer,
        PeerLimitLayer, ReadTimeoutLayer, Registry, RegistryLayer, SessionLimitLayer, SpawnLayer,
        TraceLayer, WriteTimeoutLayer, access::AccessList,
    },
    middleware::message_fn,
    service_fn,
    session::Sessions,
    tower::{limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer},
};
use tokio::runtime::Runtime;

use super::pass_through::{PassThrough, PassThroughLayer};
use crate::{
    frames::Frames,
    server::{
        codec,
        getty::{Handler, echo},
    },
    transport::Scripted,
};

/// A limit that is never reached. The layer has its full cost and refuses nothing.
const MANY: usize = 100_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A name and a function that creates the stack.
pub type LayerStack = (&'static str, fn() -> Stack);

/// The stack without a layer: codec and session loop. It is the reference.
pub const NONE: LayerStack = ("none", || Stack::of(bare()));

/// Layers outside `SessionLayer`. They are called once for each connection.
pub const CONNECTIONS: [LayerStack; 21] = [
    ("trace", || Stack::of(TraceLayer::new().layer(bare()))),
    ("metrics", || Stack::of(MetricsLayer::new().layer(bare()))),
    ("handshake-timeout", || {
        Stack::of(HandshakeTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("catch-panic", || {
        Stack::of(CatchPanicLayer::new().layer(bare()))
    }),
    ("access", || {
        let denied = AccessList::allow_all().with_denied([IpAddr::from([192, 0, 2, 1])]);
        Stack::of(AccessLayer::new(denied).layer(bare()))
    }),
    ("peer-limit", || {
        Stack::of(PeerLimitLayer::new(100_000).layer(bare()))
    }),
    ("lifetime", || {
        Stack::of(MaxAgeLayer::new(60 * MINUTE).layer(bare()))
    }),
    ("write-timeout", || {
        Stack::of(WriteTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("read-timeout", || {
        Stack::of(ReadTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("idle-timeout", || {
        Stack::of(IdleTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("idle-timeout-active", || {
        Stack::of(IdleTimeoutLayer::activity(MINUTE).layer(bare()))
    }),
    ("close-callback", || {
        let layer = CloseCallbackLayer::new("benches", "closed", |_closed| {
            CLOSED.fetch_add(1, Relaxed);
        });
        Stack::of(layer.layer(bare()))
    }),
    ("registry", || {
        framed(RegistryLayer::new(Registry::new()).layer(sessions()))
    }),
    ("session-limit", || {
        let layer = SessionLimitLayer::new(MANY, |_: &Session<Bytes>| Bytes::new());
        framed(layer.layer(sessions()))
    }),
    ("on-open", || {
        let hook = |_session: Session<Bytes>| async { Ok::<_, BoxError>(()) };
        framed(OnOpenLayer::new(hook).layer(sessions()))
    }),
    ("heartbeat", || {
        let layer = HeartbeatLayer::new(MINUTE, |_session: &Session<Bytes>| Bytes::new());
        framed(layer.with_response_timeout(MINUTE).layer(sessions()))
    }),
    ("heartbeat-with-pong", || {
        let layer = HeartbeatLayer::new(MINUTE, |_session: &Session<Bytes>| Bytes::new())
            .with_pong(|message: &Bytes| message.is_empty());
        framed(layer.layer(sessions()))
    }),
    ("correlate", || {
        framed(CorrelateLayer::new(NoResponses).layer(sessions()))
    }),
    ("correlate-in-order", || {
        framed(CorrelateLayer::in_order().layer(sessions()))
    }),
    ("interval", || {
        let layer = IntervalLayer::new(MINUTE, |_session: &Session<Bytes>| Ok::<_, BoxError>(()));
        framed(layer.layer(sessions()))
    }),
    ("pass-through-connections", || {
        Stack::of(PassThroughLayer.layer(bare()))
    }),
];

/// Options of `SessionLayer` and `BoxPipeline`.
pub const CHOICES: [LayerStack; 5] = [
    ("in-flight", || {
        framed(
            SessionLayer::new()
                .with_in_flight(16)
                .layer(service_fn(echo)),
        )
    }),
    ("unordered", || {
        let layer = SessionLayer::new().with_in_flight(16).unordered();
        framed(layer.layer(service_fn(echo)))
    }),
    ("per-session", || {
        let make = |_session: Session<Bytes>| async { Ok::<_, BoxError>(service_fn(echo)) };
        framed(SessionLayer::per_session().layer(service_fn(make)))
    }),
    ("memory-budget", || {
        let layer = SessionLayer::new().with_memory_budget(MemoryBudget::new(1 << 30));
        framed(layer.layer(service_fn(echo)))
    }),
    ("box-pipeline", || {
        Stack::of(BoxPipeline::new(
            CodecLayer::new(codec::length_delimited()).layer(sessions()),
        ))
    }),
];

/// Layers inside `SessionLayer`. They are called for each message.
pub const MESSAGES: [LayerStack; 7] = [
    ("message-fn", || {
        let layer = message_fn(async |request: Request<Bytes>, next| next.run(request).await);
        on_messages(layer.layer(service_fn(echo)))
    }),
    ("handle-error", || {
        on_messages(HandleErrorLayer::new(|_error| None).layer(service_fn(echo)))
    }),
    ("active", || {
        let layer = ActivityLayer::new(|message: &Bytes| !message.is_empty());
        on_messages(layer.layer(service_fn(echo)))
    }),
    ("message-trace", || {
        on_messages(MessageTraceLayer::new().layer(service_fn(echo)))
    }),
    ("message-metrics", || {
        on_messages(MessageMetricsLayer::new().layer(service_fn(echo)))
    }),
    ("catch-panic-messages", || {
        on_messages(CatchPanicLayer::new().layer(service_fn(echo)))
    }),
    ("spawn", || {
        on_messages(SpawnLayer::new(MANY).layer(service_fn(echo)))
    }),
];

/// tower's layers for messages. getty cannot change their cost.
pub const TOWER: [LayerStack; 3] = [
    ("tower-timeout", || {
        on_messages(TimeoutLayer::new(MINUTE).layer(service_fn(echo)))
    }),
    ("tower-load-shed", || {
        on_messages(LoadShedLayer::new().layer(service_fn(echo)))
    }),
    ("tower-concurrency-limit", || {
        on_messages(ConcurrencyLimitLayer::new(MANY).layer(service_fn(echo)))
    }),
];

/// Stacks with several message layers that only forward.
pub const DEPTHS: [LayerStack; 4] = [
    ("pass-through-1", || on_messages(one(service_fn(echo)))),
    ("pass-through-5", || on_messages(five(service_fn(echo)))),
    ("pass-through-10", || {
        on_messages(five(five(service_fn(echo))))
    }),
    ("pass-through-20", || {
        on_messages(five(five(five(five(service_fn(echo))))))
    }),
];

/// Returns all layers and options of getty except for [`NONE`].
pub fn all() -> impl Iterator<Item = LayerStack> {
    CONNECTIONS.into_iter().chain(CHOICES).chain(MESSAGES)
}

/// Number of calls of the close callback.
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// The future of one connection.
pub type ConnectionFuture = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

/// A type-erased stack over the scripted transport.
pub struct Stack(Box<dyn FnMut(Connection<Scripted>) -> ConnectionFuture>);

impl Stack {
    pub(super) fn of(mut stack: impl Pipeline<Scripted, PipelineError = BoxError>) -> Self {
        Self(Box::new(move |connection| {
            let ready = stack.poll_ready(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(ready, Poll::Ready(Ok(()))), "no limit is reached");
            Box::pin(stack.call(connection))
        }))
    }

    /// Opens a connection over `transport` with the endpoints of a TCP connection. Must be called
    /// within a runtime.
    pub fn open(&mut self, transport: Scripted) -> ConnectionFuture {
        let [local, peer] = [7000, 4096]
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .map(Into::into);
        let endpoints = Endpoints::new(TransportKind::Tcp, local, peer);
        (self.0)(Connection::with_endpoints(transport, endpoints))
    }

    /// Echoes `times` batches over one connection, each with `frames` frames of `payload` bytes.
    ///
    /// # Panics
    ///
    /// If not everything is echoed.
    pub fn echo(&mut self, runtime: &Runtime, frames: usize, payload: usize, times: u64) {
        let batch = Bytes::from(Frames::new(payload).concatenated(frames));
        let expected = batch.len() as u64 * times;
        let written = Arc::new(AtomicU64::new(0));
        let transport = Scripted::new(batch, times, Arc::clone(&written));
        let ended = runtime.block_on(async { tokio::spawn(self.open(transport)).await });
        ended
            .expect("the session does not panic")
            .expect("no layer refuses the connection");
        assert_eq!(written.load(Relaxed), expected);
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

/// Creates the session loop with the echo handler and without a codec.
fn sessions() -> Sessions<impl Handler<Bytes> + Sync> {
    SessionLayer::new().layer(service_fn(echo))
}

fn bare() -> impl Pipeline<Scripted, PipelineError = BoxError> {
    CodecLayer::new(codec::length_delimited()).layer(sessions())
}

/// Wraps a service of sessions in the codec.
pub(super) fn framed<S>(sessions: S) -> Stack
where
    CodecLayer<LengthDelimited, Bytes>:
        Layer<S, Service: Pipeline<Scripted, PipelineError = BoxError>>,
{
    Stack::of(CodecLayer::new(codec::length_delimited()).layer(sessions))
}

pub(super) fn on_messages<S>(messages: S) -> Stack
where
    S: Service<Request<Bytes>, Error = BoxError> + Clone + Send + 'static,
    S::Response: IntoReply<Bytes> + Send,
    S::Future: Send,
{
    framed(SessionLayer::new().layer(messages))
}

fn one<S>(inner: S) -> PassThrough<S> {
    PassThroughLayer.layer(inner)
}

fn five<S>(inner: S) -> PassThrough<PassThrough<PassThrough<PassThrough<PassThrough<S>>>>> {
    one(one(one(one(one(inner)))))
}

/// Adds no id and treats no message as a response.
#[derive(Clone, Copy, Debug)]
struct NoResponses;

impl Correlate<Bytes> for NoResponses {
    fn put(&self, _id: u64, _message: &mut Bytes) {}

    fn response_id(&self, _message: &Bytes) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn every_stack_echoes() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        for (_, stack) in all().chain([NONE]).chain(TOWER).chain(DEPTHS) {
            stack().echo(&runtime, 50, 64, 3);
            stack().echo(&runtime, 1, 100_000, 2);
        }
    }
}
