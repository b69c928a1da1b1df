//! Counts connections, bytes and messages with the [`metrics`](https://docs.rs/metrics) crate.
//!
//! - *ready*: as the inner service.
//! - *call*: counts the connection as opened, and registers a deadline that reads the session's
//!   statistics every ten seconds.
//! - *drop*: drops the inner future.
//! - *close*: counts the connection as closed, by reason, and adds its traffic since the last
//!   reading. This happens once, after the close callbacks, however the connection ended.
//!
//! Messages have no extra cost, because the layer reads the session's own statistics. Install a
//! recorder before the stack is built: that is when the metrics are looked up and described.
//!
//! | name | kind | value |
//! |---|---|---|
//! | `getty_connections_opened_total` | counter | connections that reached [`MetricsLayer`] |
//! | `getty_connections_closed_total` | counter | closed connections; label `reason`: [`CloseReason::as_str`] |
//! | `getty_connections_open` | gauge | open connections |
//! | `getty_connection_lifetime_seconds` | histogram | lifetime of each connection, from accept or connect |
//! | `getty_received_bytes_total` | counter | received bytes, at the last reading |
//! | `getty_sent_bytes_total` | counter | sent bytes, at the last reading |
//! | `getty_received_messages_total` | counter | decoded messages, at the last reading |
//! | `getty_sent_messages_total` | counter | encoded messages, at the last reading |
//! | `getty_skipped_messages_total` | counter | skipped bad messages, at the last reading |
//! | `getty_dropped_messages_total` | counter | messages dropped for slow peers, at the last reading |
//! | `getty_queued_messages` | gauge | sent messages that are not encoded yet, at the last reading |
//! | `getty_messages_in_flight` | gauge | messages in flight in handlers, from [`MessageMetricsLayer`] |
//! | `getty_message_errors_total` | counter | messages whose handler failed, from [`MessageMetricsLayer`] |
//! | `getty_message_latency_seconds` | histogram | time from call to response, from [`MessageMetricsLayer::with_latency`] |
//!
//! All metrics have the labels of `with_label`, which distinguish several stacks of one
//! process.
//!
//! Scope: connection; the metrics are global to the process. Place it outside layers that may
//! refuse or lose a connection, so that these connections are counted. Connections that a layer
//! outside it refuses are not.
//!
//! ```
//! use getty_core::Connection;
//! use getty_layers::MetricsLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // install a recorder first, such as an exporter's
//! let stack = ServiceBuilder::new()
//!     .layer(MetricsLayer::new().with_label("listener", "public"))
//!     .service_fn(|connection: Connection<()>| async move {
//!         Ok::<_, BoxError>(connection.handle().id())
//!     });
//! assert!(stack.oneshot(Connection::new(())).await? > 0);
//! # Ok(())
//! # }
//! ```
//!
//! [`CloseReason::as_str`]: getty_core::CloseReason::as_str
//! [`MessageMetricsLayer`]: crate::MessageMetricsLayer
//! [`MessageMetricsLayer::with_latency`]: crate::MessageMetricsLayer::with_latency

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Closed, Connection, ConnectionHandle, Stats, hooks::HandleExt, sync::Mutex};
use metrics::{
    Counter, Gauge, Histogram, Label, SharedString, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

const CLOSED: &str = "getty_connections_closed_total";

/// Counts connections, bytes and messages; see the [module](self).
#[doc(alias = "prometheus")]
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    labels: Vec<Label>,
    interval: Duration,
}

impl MetricsLayer {
    /// Creates a new layer without labels that reads the statistics every ten seconds.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            labels: Vec::new(),
            interval: Duration::from_secs(10),
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

    /// Sets the interval at which each session's statistics are read, at least 1 ms. The default is
    /// 10 s.
    ///
    /// With an interval beyond the range of the clock, they are read only at the close.
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            handles: Arc::new(Handles::new(self.labels.clone())),
            interval: self.interval,
        }
    }
}

/// Service of [`MetricsLayer`].
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    handles: Arc<Handles>,
    interval: Duration,
}

impl<S> Metrics<S> {
    getty_core::inner_service_accessors!();
}

impl<S: fmt::Debug> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("inner", &self.inner)
            .field("labels", &self.handles.labels)
            .field("interval", &self.interval)
            .finish()
    }
}

impl<S, T> Service<Connection<T>> for Metrics<S>
where
    S: Service<Connection<T>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let observer = Observer::new(connection.handle().clone(), &self.handles, self.interval);
        ResponseFuture {
            inner: self.inner.call(connection),
            _observer: observer,
        }
    }
}

pin_project! {
    /// Future of [`Metrics`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // Declared in this order: the connection is dropped before the observer (design.md: Why are
        // fields declared in a particular order?).
        #[pin]
        inner: F,
        _observer: Observer,
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
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
    labels: Vec<Label>,
    opened: Counter,
    open: Gauge,
    lifetime: Histogram,
    received_bytes: Counter,
    sent_bytes: Counter,
    received_messages: Counter,
    sent_messages: Counter,
    skipped: Counter,
    dropped: Counter,
    queued: Gauge,
}

impl Handles {
    fn new(labels: Vec<Label>) -> Self {
        describe_counter!(CLOSED, "Closed connections, by reason");
        let counter = |name: &'static str, help: &'static str| {
            describe_counter!(name, help);
            counter!(name, labels.clone())
        };
        let gauge = |name: &'static str, help: &'static str| {
            describe_gauge!(name, help);
            gauge!(name, labels.clone())
        };
        let histogram = |name: &'static str, help: &'static str| {
            describe_histogram!(name, metrics::Unit::Seconds, help);
            histogram!(name, labels.clone())
        };
        Self {
            opened: counter("getty_connections_opened_total", "Opened connections"),
            open: gauge("getty_connections_open", "Open connections"),
            lifetime: histogram(
                "getty_connection_lifetime_seconds",
                "Lifetime of connections",
            ),
            received_bytes: counter("getty_received_bytes_total", "Received bytes"),
            sent_bytes: counter("getty_sent_bytes_total", "Sent bytes"),
            received_messages: counter("getty_received_messages_total", "Decoded messages"),
            sent_messages: counter("getty_sent_messages_total", "Encoded messages"),
            skipped: counter("getty_skipped_messages_total", "Skipped bad messages"),
            dropped: counter(
                "getty_dropped_messages_total",
                "Messages dropped for slow peers",
            ),
            queued: gauge(
                "getty_queued_messages",
                "Sent messages that are not encoded yet",
            ),
            labels,
        }
    }

    /// Counts a closed connection. The counter is looked up each time because there are many
    /// reasons and most never occur.
    fn closed(&self, reason: &'static str) {
        let mut labels = self.labels.clone();
        labels.push(Label::from_static_parts("reason", reason));
        counter!(CLOSED, labels).increment(1);
    }
}

/// Observer of one connection, which ends with its future.
struct Observer {
    handle: ConnectionHandle,
    reports: Arc<Reports>,
}

/// Values of one connection that were reported last.
struct Reports {
    handles: Arc<Handles>,
    last: Mutex<(Stats, u64)>,
}

impl Observer {
    fn new(handle: ConnectionHandle, handles: &Arc<Handles>, interval: Duration) -> Self {
        handles.opened.increment(1);
        handles.open.increment(1);
        let reports = Arc::new(Reports {
            handles: Arc::clone(handles),
            last: Mutex::default(),
        });
        if let Some(first) = Instant::now().checked_add(interval) {
            let reports = Arc::clone(&reports);
            handle.schedule(first, move |handle, now| {
                reports.report(handle.stats(), handle.queued_at_deadline());
                now.checked_add(interval)
            });
        }
        Self { handle, reports }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let reports = Arc::clone(&self.reports);
        // The connection is usually closed now. If another task owns it, the close follows later.
        self.handle.once_closed(move |closed| reports.close(closed));
    }
}

impl Reports {
    fn report(&self, stats: Stats, queued: u64) {
        let handles = &self.handles;
        let mut last = self.last.lock();
        let (before, queued_before) = std::mem::replace(&mut *last, (stats, queued));
        drop(last);
        for (counter, before, now) in [
            (&handles.received_bytes, before.bytes_in, stats.bytes_in),
            (&handles.sent_bytes, before.bytes_out, stats.bytes_out),
            (
                &handles.received_messages,
                before.messages_in,
                stats.messages_in,
            ),
            (
                &handles.sent_messages,
                before.messages_out,
                stats.messages_out,
            ),
            (&handles.skipped, before.skipped, stats.skipped),
            (&handles.dropped, before.dropped, stats.dropped),
        ] {
            if now != before {
                counter.increment(now.wrapping_sub(before));
            }
        }
        if queued != queued_before {
            #[expect(clippy::cast_precision_loss, reason = "queues are shorter than 2^52")]
            handles
                .queued
                .increment(queued as f64 - queued_before as f64);
        }
    }

    fn close(&self, closed: &Closed) {
        self.report(closed.stats, 0);
        self.handles.closed(closed.reason.as_str());
        self.handles.open.decrement(1);
        self.handles.lifetime.record(closed.lifetime);
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::driver;
    use getty_test::{Metrics, assert_layer_contract};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_is_counted_from_open_to_close() {
        let recorded = Metrics::new();
        let _guard = recorded.record();
        let layer = MetricsLayer::new().with_label("listener", "test");
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let get = |name: &str| recorded.get(&format!("getty_{name}{{listener=test}}"));
        assert_eq!(
            get("connections_opened_total"),
            Some(0.0),
            "registered when the stack is built"
        );
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_eq!(get("connections_opened_total"), Some(1.0));
        assert_eq!(get("connections_open"), Some(1.0));
        assert_pending!(response.poll());

        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let (session, mut driver) = driver::pair::<&str>(connection.handle().clone());
        let ((), mut guard) = connection.into_parts();
        guard.open();
        driver.poll_signals();
        let now = driver.timestamp(Instant::now());
        driver.record_received(100, now);
        driver.record_messages_in(3, now);
        session.try_send("one").unwrap();
        session.try_send("two").unwrap();
        let next = driver.next_deadline().unwrap();
        assert_eq!(next - Instant::now(), Duration::from_secs(10));
        driver.run_deadlines(next);
        assert_eq!(get("received_bytes_total"), Some(100.0));
        assert_eq!(get("received_messages_total"), Some(3.0));
        assert_eq!(get("queued_messages"), Some(2.0));
        driver.poll_signals();
        driver.next_outgoing();
        driver.set_backpressure(false);
        driver.record_messages_out(1);
        driver.record_received(10, now);
        driver.run_deadlines(next + Duration::from_secs(10));
        assert_eq!(
            get("received_bytes_total"),
            Some(110.0),
            "only the difference is added"
        );
        assert_eq!(get("sent_messages_total"), Some(1.0));
        assert_eq!(get("queued_messages"), Some(1.0));

        driver.record_sent(7, now);
        driver.record_skipped();
        tokio::time::advance(Duration::from_secs(3)).await;
        session.close();
        drop(driver);
        drop(guard);
        inner.send_response(());
        assert_ready_ok!(response.poll());
        drop(response);
        assert_eq!(get("sent_bytes_total"), Some(7.0));
        assert_eq!(get("skipped_messages_total"), Some(1.0));
        assert_eq!(get("queued_messages"), Some(0.0));
        assert_eq!(get("connections_open"), Some(0.0));
        assert_eq!(get("connection_lifetime_seconds"), Some(3.0));
        let closed = "getty_connections_closed_total{listener=test,reason=local}";
        assert_eq!(recorded.get(closed), Some(1.0));
    }

    #[test]
    fn refused_and_dropped_connections_are_counted() {
        let recorded = Metrics::new();
        let _guard = recorded.record();
        let layer = MetricsLayer::new();
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        for dropped in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let mut response = task::spawn(service.call(Connection::new(())));
            assert_pending!(response.poll());
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            if dropped {
                drop(response);
                drop(connection);
            } else {
                drop(connection);
                inner.send_error("handler failed");
                assert_eq!(
                    assert_ready_err!(response.poll()).to_string(),
                    "handler failed"
                );
            }
        }
        let closed = recorded.get("getty_connections_closed_total{reason=refused}");
        assert_eq!(closed, Some(2.0));
        assert_eq!(recorded.get("getty_connections_open"), Some(0.0));
    }

    #[test]
    fn all_intervals_are_accepted() {
        for interval in [Duration::ZERO, Duration::MAX] {
            let layer = MetricsLayer::new().with_interval(interval);
            let mut service = layer.layer(tower::service_fn(|connection: Connection<()>| async {
                Ok::<_, std::convert::Infallible>(connection)
            }));
            let response = task::spawn(service.call(Connection::new(()))).poll();
            let connection = assert_ready_ok!(response);
            let (_, mut driver) = driver::pair::<()>(connection.handle().clone());
            driver.poll_signals();
            assert_eq!(driver.next_deadline().is_some(), interval.is_zero());
            driver.run_deadlines(Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&MetricsLayer::new(), || Connection::new(())).await;
    }
}
