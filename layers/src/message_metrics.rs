//! Counts the messages that handlers work on and fail on, and on request measures how long they take.
//!
//! - *ready*: the inner service's.
//! - *call*: counts the message as in flight until its future has ended or is dropped. An error is counted and passes
//!   through.
//! - *drop*: drops the inner future; the message is no longer in flight, and nothing else is recorded of it.
//! - *close*: nothing of its own.
//!
//! The names are in the table of [`metrics`](crate::metrics), whose [`MetricsLayer`](crate::MetricsLayer) counts bytes
//! and messages without a cost a message. This layer has one: a gauge shared by all sessions goes up and down, and with
//! [`with_latency`](MessageMetricsLayer::with_latency) the clock is read twice.
//!
//! Scope: message; the metrics are the process's. It stands inside `SessionLayer`, outside whatever it is to measure;
//! inside [`HandleErrorLayer`](crate::HandleErrorLayer), or it sees no errors.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::MessageMetricsLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // first of all a recorder is installed, such as an exporter's
//! let stack = ServiceBuilder::new()
//!     .layer(MessageMetricsLayer::new().with_latency())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(request.into_message())
//!     });
//! let (session, _driver) = driver::pair(Connection::new(()).handle().clone());
//! assert_eq!(stack.oneshot(Request::new("hello".to_owned(), session)).await?, "hello");
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use metrics::{
    Counter, Gauge, Histogram, Label, SharedString, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::Request;

/// Counts, and on request measures, messages; see the [module](self).
#[derive(Clone, Debug)]
pub struct MessageMetricsLayer {
    labels: Vec<Label>,
    latency: bool,
}

impl MessageMetricsLayer {
    /// Without labels, without latency.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            labels: Vec::new(),
            latency: false,
        }
    }

    /// Adds a label to all metrics of the layer, which has none by default. Its values should be few.
    #[must_use]
    pub fn with_label(
        mut self,
        name: impl Into<SharedString>,
        value: impl Into<SharedString>,
    ) -> Self {
        self.labels.push(Label::new(name, value));
        self
    }

    /// Measures the time from each call to its answer or error, waits of the handler included. Off by default: it reads
    /// the clock twice a message.
    #[must_use]
    pub const fn with_latency(mut self) -> Self {
        self.latency = true;
        self
    }
}

impl Default for MessageMetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MessageMetricsLayer {
    type Service = MessageMetrics<S>;

    fn layer(&self, inner: S) -> MessageMetrics<S> {
        MessageMetrics {
            inner,
            handles: Arc::new(Handles::new(&self.labels, self.latency)),
        }
    }
}

/// The service that [`MessageMetricsLayer`] makes.
#[derive(Clone)]
pub struct MessageMetrics<S> {
    inner: S,
    handles: Arc<Handles>,
}

impl<S> MessageMetrics<S> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for MessageMetrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageMetrics")
            .field("inner", &self.inner)
            .field("latency", &self.handles.latency.is_some())
            .finish()
    }
}

impl<S, In, Out> Service<Request<In, Out>> for MessageMetrics<S>
where
    S: Service<Request<In, Out>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        let in_flight = InFlight::new(&self.handles);
        ResponseFuture {
            inner: self.inner.call(request),
            in_flight,
        }
    }
}

pin_project! {
    /// The future of [`MessageMetrics`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        in_flight: InFlight,
    }
}

impl<F, Response, Error> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        this.in_flight.ended(result.is_err());
        Poll::Ready(result)
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// The metrics, looked up once a stack.
struct Handles {
    in_flight: Gauge,
    errors: Counter,
    latency: Option<Histogram>,
}

impl Handles {
    fn new(labels: &[Label], latency: bool) -> Self {
        const IN_FLIGHT: &str = "getty_messages_in_flight";
        const ERRORS: &str = "getty_message_errors_total";
        const LATENCY: &str = "getty_message_latency_seconds";

        describe_gauge!(IN_FLIGHT, "Messages that handlers work on");
        describe_counter!(ERRORS, "Messages whose handler failed");
        Self {
            in_flight: gauge!(IN_FLIGHT, labels.to_vec()),
            errors: counter!(ERRORS, labels.to_vec()),
            latency: latency.then(|| {
                describe_histogram!(
                    LATENCY,
                    metrics::Unit::Seconds,
                    "How long handlers took for a message"
                );
                histogram!(LATENCY, labels.to_vec())
            }),
        }
    }
}

/// A message in flight, until this is dropped.
struct InFlight {
    handles: Arc<Handles>,
    start: Option<Instant>,
}

impl InFlight {
    fn new(handles: &Arc<Handles>) -> Self {
        handles.in_flight.increment(1);
        Self {
            handles: Arc::clone(handles),
            start: handles.latency.is_some().then(Instant::now),
        }
    }

    fn ended(&self, failed: bool) {
        if failed {
            self.handles.errors.increment(1);
        }
        if let (Some(latency), Some(start)) = (&self.handles.latency, self.start) {
            latency.record(start.elapsed());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.handles.in_flight.decrement(1);
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::time::Duration;

    use metrics::set_default_local_recorder;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::{
        metrics::record::Sums,
        testing::{assert_readiness, request},
    };

    type Message = Request<&'static str, &'static str>;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_in_flight_until_it_is_answered_fails_or_is_dropped() {
        let sums = Sums::default();
        let _guard = set_default_local_recorder(&sums);
        let layer = MessageMetricsLayer::new().with_latency();
        let (mut service, mut handle) = mock::spawn_layer::<Message, &'static str, _>(layer);
        let get = |name: &str| sums.get(&format!("getty_message{name}")).unwrap();
        for (end, latency, errors) in [
            ("answered", 2.0, 0.0),
            ("failed", 4.0, 1.0),
            ("dropped", 4.0, 1.0),
        ] {
            assert_ready_ok!(service.poll_ready());
            let mut response = task::spawn(service.call(request()));
            assert_pending!(response.poll());
            assert_eq!(get("s_in_flight"), 1.0);
            let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
            tokio::time::advance(Duration::from_secs(2)).await;
            match end {
                "answered" => {
                    inner.send_response("answer");
                    assert!(response.is_woken());
                    assert_eq!(assert_ready_ok!(response.poll()), "answer");
                }
                "failed" => {
                    inner.send_error("no luck");
                    assert!(response.is_woken());
                    assert_eq!(assert_ready_err!(response.poll()).to_string(), "no luck");
                }
                _ => {}
            }
            drop(response);
            assert_eq!(get("s_in_flight"), 0.0, "{end}");
            assert_eq!(get("_latency_seconds"), latency, "{end}");
            assert_eq!(get("_errors_total"), errors, "{end}");
        }
    }

    #[test]
    fn latency_is_measured_only_on_request() {
        let sums = Sums::default();
        let _guard = set_default_local_recorder(&sums);
        let layer = MessageMetricsLayer::new().with_label("stack", "test");
        let mut service = layer.layer(tower::service_fn(|_: Message| async {
            Ok::<_, std::convert::Infallible>("answer")
        }));
        assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(sums.get("getty_messages_in_flight{stack=test}"), Some(0.0));
        assert_eq!(sums.get("getty_message_latency_seconds{stack=test}"), None);
    }

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        assert_readiness::<_, Message, &str, _>(&MessageMetricsLayer::new(), request);
    }
}
