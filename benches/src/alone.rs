//! Stacks with one layer each, beside the bare one: what a layer costs by itself.
//!
//! The type of each is forgotten, which costs an allocation a connection and an indirect call a turn, the same for all.

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
    codec::Length,
    layers::{
        AccessLayer, ActiveLayer, CatchPanicLayer, CloseCallbackLayer, Correlate, CorrelateLayer,
        CronLayer, HandleErrorLayer, HandshakeTimeoutLayer, HeartbeatLayer, IdleTimeoutLayer,
        LifetimeLayer, MessageMetricsLayer, MessageTraceLayer, MetricsLayer, OnOpenLayer,
        PeerLimitLayer, ReadTimeoutLayer, Registry, RegistryLayer, SpawnLayer, TraceLayer,
        WriteTimeoutLayer, access::AccessList,
    },
    service_fn,
    session::Sessions,
    tower::{limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer},
};
use tokio::runtime::Runtime;

use crate::{
    frames::Frames,
    pass_through::{PassThrough, PassThroughLayer},
    scripted::Scripted,
    server::{codec, getty::Handler},
};

/// What is never exceeded, so that a limit costs what it costs and refuses nobody.
const MANY: usize = 100_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A name, and how to make the stack of it.
pub type Alone = (&'static str, fn() -> Stack);

/// The stack that all others are measured against: codec and session loop.
pub const NONE: Alone = ("none", || Stack::of(bare()));

/// Outside of `SessionLayer`: called once a connection.
pub const CONNECTIONS: [Alone; 20] = [
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
        Stack::of(LifetimeLayer::new(60 * MINUTE).layer(bare()))
    }),
    ("write-timeout", || {
        Stack::of(WriteTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("read-timeout", || {
        Stack::of(ReadTimeoutLayer::new(MINUTE).layer(bare()))
    }),
    ("idle-timeout", || {
        Stack::of(IdleTimeoutLayer::read(MINUTE).layer(bare()))
    }),
    ("idle-timeout-active", || {
        Stack::of(IdleTimeoutLayer::active(MINUTE).layer(bare()))
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
    ("on-open", || {
        let hook = |_session: Session<Bytes>| async { Ok::<_, BoxError>(()) };
        framed(OnOpenLayer::new(hook).layer(sessions()))
    }),
    ("heartbeat", || {
        let layer = HeartbeatLayer::new(MINUTE, |_session: &Session<Bytes>| Bytes::new());
        framed(layer.with_answer_within(MINUTE).layer(sessions()))
    }),
    ("heartbeat-with-pong", || {
        let layer = HeartbeatLayer::new(MINUTE, |_session: &Session<Bytes>| Bytes::new())
            .with_pong(|message: &Bytes| message.is_empty());
        framed(layer.layer(sessions()))
    }),
    ("correlate", || {
        framed(CorrelateLayer::new(NoAnswers).layer(sessions()))
    }),
    ("correlate-in-order", || {
        framed(CorrelateLayer::in_order().layer(sessions()))
    }),
    ("cron", || {
        let layer = CronLayer::new(MINUTE, |_session: &Session<Bytes>| Ok::<_, BoxError>(()));
        framed(layer.layer(sessions()))
    }),
    ("pass-through-connections", || {
        Stack::of(PassThroughLayer.layer(bare()))
    }),
];

/// What `SessionLayer` itself offers, and what forgets the type of a stack.
pub const CHOICES: [Alone; 5] = [
    ("in-flight", || {
        framed(SessionLayer::new().in_flight(16).layer(service_fn(echo)))
    }),
    ("unordered", || {
        let layer = SessionLayer::new().in_flight(16).unordered();
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
            CodecLayer::new(codec::length()).layer(sessions()),
        ))
    }),
];

/// Inside of `SessionLayer`: called for each message.
pub const MESSAGES: [Alone; 6] = [
    ("handle-error", || {
        on_messages(HandleErrorLayer::new(|_error| None).layer(service_fn(echo)))
    }),
    ("active", || {
        let layer = ActiveLayer::new(|message: &Bytes| !message.is_empty());
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

/// tower's own, for messages: what they cost is not getty's to change.
pub const TOWER: [Alone; 3] = [
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

/// Pass-through layers on messages: what a layer costs at so many of them.
pub const DEPTHS: [Alone; 4] = [
    ("pass-through-1", || on_messages(one(service_fn(echo)))),
    ("pass-through-5", || on_messages(five(service_fn(echo)))),
    ("pass-through-10", || {
        on_messages(five(five(service_fn(echo))))
    }),
    ("pass-through-20", || {
        on_messages(five(five(five(five(service_fn(echo))))))
    }),
];

/// Every layer and choice of getty's own, beside [`NONE`].
pub fn all() -> impl Iterator<Item = Alone> {
    CONNECTIONS.into_iter().chain(CHOICES).chain(MESSAGES)
}

/// How many connections the close callback was told of.
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// The life of one connection.
pub type Life = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

/// A stack whose type is forgotten, over the scripted transport.
pub struct Stack(Box<dyn FnMut(Connection<Scripted>) -> Life>);

impl Stack {
    fn of(mut stack: impl Pipeline<Scripted, PipelineError = BoxError>) -> Self {
        Self(Box::new(move |connection| {
            let ready = stack.poll_ready(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(ready, Poll::Ready(Ok(()))), "no limit is reached");
            Box::pin(stack.call(connection))
        }))
    }

    /// A connection over `transport`, as if it came over TCP. Within a runtime.
    pub fn open(&mut self, transport: Scripted) -> Life {
        let [local, peer] = [7000, 4096]
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .map(Into::into);
        let endpoints = Endpoints::new(TransportKind::Tcp, local, peer);
        (self.0)(Connection::with_endpoints(transport, endpoints))
    }

    /// Echoes `times` batches of so many `frames` of so many `payload` bytes over one connection.
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
            .expect("nothing refuses it");
        assert_eq!(written.load(Relaxed), expected);
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

async fn echo(request: Request<Bytes>) -> Result<Bytes, BoxError> {
    Ok(request.into_message())
}

/// The session loop around the handler: what stands inside of a codec.
fn sessions() -> Sessions<impl Handler<Bytes> + Sync> {
    SessionLayer::new().layer(service_fn(echo))
}

fn bare() -> impl Pipeline<Scripted, PipelineError = BoxError> {
    CodecLayer::new(codec::length()).layer(sessions())
}

/// What needs a session, with the codec outside of it.
fn framed<S>(sessions: S) -> Stack
where
    CodecLayer<Length, Bytes>: Layer<S, Service: Pipeline<Scripted, PipelineError = BoxError>>,
{
    Stack::of(CodecLayer::new(codec::length()).layer(sessions))
}

fn on_messages<S>(messages: S) -> Stack
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

/// By id; no message is an answer.
#[derive(Clone, Copy, Debug)]
struct NoAnswers;

impl Correlate<Bytes> for NoAnswers {
    fn put(&self, _id: u64, _message: &mut Bytes) {}

    fn answers(&self, _message: &Bytes) -> Option<u64> {
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
