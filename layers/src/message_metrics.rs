//! Counts messages in flight and handler errors and optionally measures latency.
//!
//! - *ready*: as the inner service.
//! - *call*: counts the message as in flight until its future completes or is dropped. An error
//!   is counted and passes through.
//! - *drop*: drops the inner future. The message is no longer in flight, and nothing else is
//!   recorded.
//! - *close*: nothing.
//!
//! The table of [`metrics`](crate::metrics) lists the names.
//! [`MetricsLayer`](crate::MetricsLayer) counts bytes and messages without a cost per message.
//! This layer has one: it updates a gauge that all sessions share, and with
//! [`with_latency`](MessageMetricsLayer::with_latency) it reads the clock twice.
//!
//! Scope: message; the metrics are global to the process. It must be inside `SessionLayer` and
//! outside everything that it should measure. Place it inside
//! [`HandleErrorLayer`](crate::HandleErrorLayer), otherwise it observes no errors.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::MessageMetricsLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // install a recorder first, such as an exporter's
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

use getty_core::Request;
use metrics::{
    Counter, Gauge, Histogram, Label, SharedString, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// Counts messages in flight and handler errors; see the [module](self).
#[doc(alias = "prometheus")]
#[derive(Clone, Debug)]
pub struct MessageMetricsLayer {
    labels: Vec<Label>,
    latency: bool,
}

impl MessageMetricsLayer {
    /// Creates a new layer without labels and without latency.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            labels: Vec::new(),
            latency: false,
        }
    }

    /// Adds a label to all metrics of the layer. The default is none. The label should have few
    /// distinct values.
    #[must_use]
    pub fn with_label(
        mut self,
        name: impl Into<SharedString>,
        value: impl Into<SharedString>,
    ) -> Self {
        self.labels.push(Label::new(name, value));
        self
    }

    /// Measures the time from each call to its response or error, including the time that the
    /// handler waits. The default is not to measure it because it reads the clock twice per
    /// message.
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

/// Service of [`MessageMetricsLayer`].
#[derive(Clone)]
pub struct MessageMetrics<S> {
    inner: S,
    handles: Arc<Handles>,
}

impl<S> MessageMetrics<S> {
    getty_core::inner_service_accessors!();
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

    /// Polls the inner service. A drop will give back its reservation.
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
    /// Future of [`MessageMetrics`].
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
        this.in_flight.complete(result.is_err());
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

/// Handles of the metrics, looked up once per stack.
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

        describe_gauge!(IN_FLIGHT, "Messages in flight in handlers");
        describe_counter!(ERRORS, "Messages whose handler returned an error");
        Self {
            in_flight: gauge!(IN_FLIGHT, labels.to_vec()),
            errors: counter!(ERRORS, labels.to_vec()),
            latency: latency.then(|| {
                describe_histogram!(
                    LATENCY,
                    metrics::Unit::Seconds,
                    "Time from the call of a handler to its response"
                );
                histogram!(LATENCY, labels.to_vec())
            }),
        }
    }
}

/// Message in flight, until it is dropped.
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

    fn complete(&self, failed: bool) {
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

    use getty_test::{Metrics, assert_layer_contract};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::testing::request;

    type Message = Request<&'static str, &'static str>;

    #[tokio::test(start_paused = true)]
    async fn message_is_in_flight_until_its_future_completes_or_is_dropped() {
        let recorded = Metrics::new();
        let _guard = recorded.record();
        let layer = MessageMetricsLayer::new().with_latency();
        let (mut service, mut handle) = mock::spawn_layer::<Message, &'static str, _>(layer);
        let get = |name: &str| recorded.get(&format!("getty_message{name}")).unwrap();
        for (end, latency, errors) in [
            ("completed", 2.0, 0.0),
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
                "completed" => {
                    inner.send_response("response");
                    assert!(response.is_woken());
                    assert_eq!(assert_ready_ok!(response.poll()), "response");
                }
                "failed" => {
                    inner.send_error("handler failed");
                    assert!(response.is_woken());
                    assert_eq!(
                        assert_ready_err!(response.poll()).to_string(),
                        "handler failed"
                    );
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
    fn latency_is_measured_only_if_enabled() {
        let recorded = Metrics::new();
        let _guard = recorded.record();
        let layer = MessageMetricsLayer::new().with_label("stack", "test");
        let mut service = layer.layer(tower::service_fn(|_: Message| async {
            Ok::<_, std::convert::Infallible>("response")
        }));
        assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(
            recorded.get("getty_messages_in_flight{stack=test}"),
            Some(0.0)
        );
        assert_eq!(
            recorded.get("getty_message_latency_seconds{stack=test}"),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&MessageMetricsLayer::new(), request::<String>).await;
    }
}
