//! All layers of getty-layers follow the contract.

use std::time::Duration;

use getty::{
    BoxError, CodecLayer, Connection, Request, SessionIo,
    codec::Lines,
    layers::{
        AccessLayer, ActivityLayer, CatchPanicLayer, ClonePerCallLayer, CloseCallbackLayer,
        Correlate, CorrelateLayer, HandleErrorLayer, HandleMalformedLayer, HandshakeTimeoutLayer,
        HeartbeatLayer, IdleTimeoutLayer, IntervalLayer, Malformed, MaxAgeLayer, MessageTraceLayer,
        OnOpenLayer, PeerLimitLayer, PendingLimitLayer, ReadTimeoutLayer, Registry, RegistryLayer,
        SessionLimitLayer, SpawnLayer, TraceLayer, WriteTimeoutLayer, access::AccessList,
    },
};
use getty_test::{
    LayerContract, Rule, assert_layer_contract, connection, request, session_connection,
};

const TEN: Duration = Duration::from_secs(10);

fn session() -> Connection<SessionIo<(), Lines, String>> {
    session_connection(Lines::new())
}

fn message() -> Request<String, String> {
    request("hello".to_owned())
}

/// Asserts the contract of layers for connections, alone and inside `CodecLayer`.
macro_rules! connections {
    ($($name:ident: $layer:expr;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            assert_layer_contract(&$layer, connection).await;
            assert_layer_contract(&$layer, session).await;
        }
    )*};
}

macro_rules! sessions {
    ($($name:ident: $layer:expr;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            assert_layer_contract(&$layer, session).await;
        }
    )*};
}

macro_rules! messages {
    ($($name:ident: $layer:expr $(, except $rule:ident)*;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let contract = LayerContract::new()$(.except(Rule::$rule))*;
            contract.assert(&$layer, message).await;
        }
    )*};
}

connections! {
    access: AccessLayer::new(AccessList::allow_all());
    catch_panic: CatchPanicLayer::new();
    clone_per_call: ClonePerCallLayer::new();
    close_callback: CloseCallbackLayer::new("test", "key", |_| {});
    handshake_timeout: HandshakeTimeoutLayer::default();
    idle_timeout: IdleTimeoutLayer::new(TEN);
    max_age: MaxAgeLayer::new(TEN);
    peer_limit: PeerLimitLayer::new(9);
    pending_limit: PendingLimitLayer::new(9);
    read_timeout: ReadTimeoutLayer::new(TEN);
    trace: TraceLayer::new();
    write_timeout: WriteTimeoutLayer::new(TEN);
}

sessions! {
    heartbeat: HeartbeatLayer::new(TEN, |_| "beat".to_owned());
    interval: IntervalLayer::new(TEN, |_| Ok::<_, BoxError>(()));
    on_open: OnOpenLayer::new(|session| async move { session.feed("hello".to_owned()).await });
    correlate_in_order: CorrelateLayer::in_order();
    correlate: CorrelateLayer::new(Numbers);
    registry: RegistryLayer::new(Registry::new());
    session_limit: SessionLimitLayer::new(9, |_| "full".to_owned());
}

messages! {
    activity: ActivityLayer::new(|_: &String| true);
    message_trace: MessageTraceLayer::new();
    spawn: SpawnLayer::new(9);
    catch_panic_of_messages: CatchPanicLayer::new();
    catch_panic_with_reply: CatchPanicLayer::new().with_reply(|_| "panic".to_owned()), except Panics;
    handle_error: HandleErrorLayer::new(|error: BoxError| error.to_string()), except Errors;
    clone_per_call_of_messages: ClonePerCallLayer::new();
}

#[derive(Clone, Debug)]
struct Numbers;

impl Correlate<String> for Numbers {
    fn put(&self, id: u64, message: &mut String) {
        message.insert_str(0, &id.to_string());
    }

    fn response_id(&self, message: &String) -> Option<u64> {
        message.parse().ok()
    }
}

#[tokio::test(start_paused = true)]
async fn codec() {
    assert_layer_contract(&CodecLayer::<_, String>::new(Lines::new()), connection).await;
}

#[tokio::test(start_paused = true)]
async fn handle_malformed() {
    let layer = HandleMalformedLayer::new(|malformed: Malformed| malformed.to_string());
    let message = || request::<_, String>(Ok::<_, Malformed>("hello".to_owned()));
    assert_layer_contract(&layer, message).await;
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn metrics() {
    assert_layer_contract(&getty::layers::MetricsLayer::new(), connection).await;
    assert_layer_contract(&getty::layers::MessageMetricsLayer::new(), message).await;
}
