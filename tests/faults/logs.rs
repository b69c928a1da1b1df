//! Subscribers of `tracing` and recorders of metrics that panic.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use getty::{
    BoxError, BoxPipeline, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    codec::Lines,
    layers::{MessageMetricsLayer, MessageTraceLayer, MetricsLayer, TraceLayer},
    net::memory,
    serve,
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};
use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use crate::app::{Side, soon};

/// Method of the subscriber that panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    NewSpan,
    Enter,
    Exit,
    Event,
    Record,
}

struct Bad {
    method: Method,
    panics: Arc<AtomicUsize>,
}

impl Bad {
    fn called(&self, method: Method) {
        if method == self.method {
            self.panics.fetch_add(1, SeqCst);
            panic!("a bad subscriber");
        }
    }
}

impl Subscriber for Bad {
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> Interest {
        // Tests on other threads have no subscriber.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("getty")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.called(Method::NewSpan);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        self.called(Method::Record);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.called(Method::Event);
    }

    fn enter(&self, _: &Id) {
        self.called(Method::Enter);
    }

    fn exit(&self, _: &Id) {
        self.called(Method::Exit);
    }
}

/// Answers lines. `fail` is an error, `panic` panics, and `name` renames the connection.
async fn answer(request: Request<String>) -> Result<String, BoxError> {
    match request.message().as_str() {
        "fail" => Err("failed".into()),
        "panic" => panic!("a bad handler"),
        "name" => {
            request.session().set_name("new name");
            Ok("named".to_owned())
        }
        _ => Ok(request.into_message()),
    }
}

fn stack() -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(answer),
    )
}

fn traced() -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(TraceLayer::new())
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .layer(MessageTraceLayer::new())
            .service_fn(answer),
    )
}

fn measured() -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(MetricsLayer::new())
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .layer(MessageMetricsLayer::new().with_latency())
            .service_fn(answer),
    )
}

/// Serves `stack` to peers that send `lines`, one connection each, and shuts the server down.
/// Returns the reasons of the closes.
async fn serve_lines(
    what: &dyn fmt::Debug,
    stack: BoxPipeline,
    lines: &[&str],
) -> Vec<CloseReason> {
    let side = Side::new();
    let (listener, connector) = memory(1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let stack = side.outside(stack);
    let served = tokio::spawn(async move {
        serve(listener, stack)
            .with_graceful_shutdown(async move { drop(stopped.await) })
            .await
    });
    for line in lines {
        let mut peer = connector.connect().await.unwrap().into_parts().0;
        let _ = peer.write_all(line.as_bytes()).await;
        let _ = peer.shutdown().await;
        let mut rest = Vec::new();
        let _ = soon(peer.read_to_end(&mut rest)).await;
        side.settle(what).await;
    }
    assert_eq!(side.records().len(), lines.len(), "{what:?}");
    let _open = connector.connect().await.unwrap();
    tokio::task::yield_now().await;
    stop.send(()).unwrap();
    soon(served).await.unwrap().unwrap();
    side.settle(what).await;
    side.reasons()
}

const LINES: [&str; 5] = ["hello\n", "fail\n", "panic\n", "name\n", "\u{0}\n"];

#[tokio::test(start_paused = true)]
async fn panic_of_the_subscriber_ends_no_other_connection_and_no_server() {
    for method in [
        Method::NewSpan,
        Method::Enter,
        Method::Exit,
        Method::Event,
        Method::Record,
    ] {
        for (name, stack) in [("plain", stack()), ("traced", traced())] {
            let panics = Arc::new(AtomicUsize::new(0));
            let subscriber = Bad {
                method,
                panics: Arc::clone(&panics),
            };
            let guard = tracing::subscriber::set_default(subscriber);
            let what = (name, method);
            let reasons = serve_lines(&what, stack, &LINES).await;
            drop(guard);
            if name == "traced" || method == Method::Event {
                assert!(panics.load(SeqCst) > 0, "{what:?}");
            }
            if name == "plain" {
                // The session loop logs only ends, and a close is what it was.
                let expected = [
                    CloseReason::PeerClosed,
                    CloseReason::Handler,
                    CloseReason::Panicked,
                    CloseReason::PeerClosed,
                    CloseReason::PeerClosed,
                ];
                assert_eq!(reasons[..5], expected, "{what:?}");
            }
        }
    }
}

/// A recorder whose metrics panic when they change.
struct BadRecorder(Arc<AtomicUsize>);

struct BadMetric(Arc<AtomicUsize>);

impl BadMetric {
    fn changed(&self) -> ! {
        self.0.fetch_add(1, SeqCst);
        panic!("a bad recorder")
    }
}

impl CounterFn for BadMetric {
    fn increment(&self, _: u64) {
        self.changed()
    }

    fn absolute(&self, _: u64) {
        self.changed()
    }
}

impl GaugeFn for BadMetric {
    fn increment(&self, _: f64) {
        self.changed()
    }

    fn decrement(&self, _: f64) {
        self.changed()
    }

    fn set(&self, _: f64) {
        self.changed()
    }
}

impl HistogramFn for BadMetric {
    fn record(&self, _: f64) {
        self.changed()
    }
}

impl BadRecorder {
    fn metric(&self) -> Arc<BadMetric> {
        Arc::new(BadMetric(Arc::clone(&self.0)))
    }
}

impl Recorder for BadRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            // Otherwise no connection comes as far as its first message.
            "getty_connections_opened_total" => Counter::noop(),
            _ => Counter::from_arc(self.metric()),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match key.name() {
            "getty_connections_open" => Gauge::noop(),
            _ => Gauge::from_arc(self.metric()),
        }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.metric())
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_recorder_ends_no_other_connection_and_no_server() {
    let panics = Arc::new(AtomicUsize::new(0));
    let recorder = BadRecorder(Arc::clone(&panics));
    let _guard = metrics::set_default_local_recorder(&recorder);
    let reasons = serve_lines(&"metrics", measured(), &LINES).await;
    // The first message of each connection panics. The last peer sent none.
    assert_eq!(reasons[..5], vec![CloseReason::Panicked; 5]);
    assert!(panics.load(SeqCst) >= 10, "each message and each end");
}
