//! Counts connections, bytes and messages, through the facade of the [`metrics`](https://docs.rs/metrics) crate.
//!
//! - *ready*: the inner service's.
//! - *call*: counts the connection as opened, and has the session look at its statistics every ten seconds.
//! - *drop*: nothing of its own.
//! - *close*: counts the connection as closed, by reason, with what it moved since the last look, after its close
//!   callbacks, once and however it ended.
//!
//! No message costs anything: what a session has moved is read off its own statistics now and then. A recorder should be
//! installed before the stack is built: that is when the metrics are looked up and described.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `getty_connections_opened_total` | counter | connections that came to [`MetricsLayer`] |
//! | `getty_connections_closed_total` | counter | those of them that have ended; label `reason`: [`CloseReason::as_str`] |
//! | `getty_connections_open` | gauge | those that have not |
//! | `getty_connection_lifetime_seconds` | histogram | how long each lived, from accept or connect on |
//! | `getty_received_bytes_total` | counter | bytes received, as of the last looks |
//! | `getty_sent_bytes_total` | counter | bytes sent, as of the last looks |
//! | `getty_received_messages_total` | counter | messages decoded, as of the last looks |
//! | `getty_sent_messages_total` | counter | messages encoded, as of the last looks |
//! | `getty_skipped_messages_total` | counter | bad messages skipped, as of the last looks |
//! | `getty_dropped_messages_total` | counter | messages dropped for slow peers, as of the last looks |
//! | `getty_queued_messages` | gauge | messages sent and not encoded yet, as of the last looks |
//! | `getty_messages_in_flight` | gauge | messages that handlers work on, of [`MessageMetricsLayer`] |
//! | `getty_message_errors_total` | counter | messages whose handler failed, of [`MessageMetricsLayer`] |
//! | `getty_message_latency_seconds` | histogram | from call to answer, of [`MessageMetricsLayer::with_latency`] |
//!
//! Each has the labels given with `with_label`, to tell stacks of one process apart.
//!
//! Scope: connection; the metrics are the process's. It stands outside whatever may refuse or lose a connection, so that
//! this is counted, too; what a layer further out refuses is not.
//!
//! ```
//! use getty_core::Connection;
//! use getty_layers::MetricsLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // first of all a recorder is installed, such as an exporter's
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
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Label, SharedString, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{Closed, Connection, ConnectionHandle, Stats};

const CLOSED: &str = "getty_connections_closed_total";

/// Counts connections, bytes and messages; see the [module](self).
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    labels: Vec<Label>,
    interval: Duration,
}

impl MetricsLayer {
    /// Without labels, looking every ten seconds.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            labels: Vec::new(),
            interval: Duration::from_secs(10),
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

    /// How often each session's statistics are looked at. Every ten seconds by default, at most once a millisecond; an
    /// interval past the end of time means only at the close.
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

/// The service that [`MetricsLayer`] makes.
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    handles: Arc<Handles>,
    interval: Duration,
}

impl<S> Metrics<S> {
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

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let watch = Watch::new(connection.handle().clone(), &self.handles, self.interval);
        ResponseFuture {
            inner: self.inner.call(connection),
            _watch: watch,
        }
    }
}

pin_project! {
    /// The future of [`Metrics`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // in this order: the connection goes first
        #[pin]
        inner: F,
        _watch: Watch,
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

/// The metrics, looked up once a stack.
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
        describe_counter!(CLOSED, "Connections that have ended, by reason");
        let counter = |name: &'static str, what: &'static str| {
            describe_counter!(name, what);
            counter!(name, labels.clone())
        };
        let gauge = |name: &'static str, what: &'static str| {
            describe_gauge!(name, what);
            gauge!(name, labels.clone())
        };
        let histogram = |name: &'static str, what: &'static str| {
            describe_histogram!(name, metrics::Unit::Seconds, what);
            histogram!(name, labels.clone())
        };
        Self {
            opened: counter("getty_connections_opened_total", "Connections opened"),
            open: gauge("getty_connections_open", "Connections that are open"),
            lifetime: histogram(
                "getty_connection_lifetime_seconds",
                "How long connections lived",
            ),
            received_bytes: counter("getty_received_bytes_total", "Bytes received"),
            sent_bytes: counter("getty_sent_bytes_total", "Bytes sent"),
            received_messages: counter("getty_received_messages_total", "Messages decoded"),
            sent_messages: counter("getty_sent_messages_total", "Messages encoded"),
            skipped: counter("getty_skipped_messages_total", "Bad messages skipped"),
            dropped: counter(
                "getty_dropped_messages_total",
                "Messages dropped for slow peers",
            ),
            queued: gauge("getty_queued_messages", "Messages waiting to be encoded"),
            labels,
        }
    }

    /// Once a connection; looked up then, for there are many reasons and most never come.
    fn closed(&self, reason: &'static str) {
        let mut labels = self.labels.clone();
        labels.push(Label::from_static_parts("reason", reason));
        counter!(CLOSED, labels).increment(1);
    }
}

/// One connection's part in the metrics, which ends with it.
struct Watch {
    handle: ConnectionHandle,
    reports: Arc<Reports>,
}

/// What was reported of one connection so far.
struct Reports {
    handles: Arc<Handles>,
    last: Mutex<(Stats, u64)>,
}

impl Watch {
    fn new(handle: ConnectionHandle, handles: &Arc<Handles>, interval: Duration) -> Self {
        handles.opened.increment(1);
        handles.open.increment(1);
        let reports = Arc::new(Reports {
            handles: Arc::clone(handles),
            last: Mutex::default(),
        });
        if let Some(first) = Instant::now().checked_add(interval) {
            let reports = Arc::clone(&reports);
            handle.check_at(first, move |handle, now| {
                reports.report(handle.stats(), handle.queued_at_check());
                now.checked_add(interval)
            });
        }
        Self { handle, reports }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let reports = Arc::clone(&self.reports);
        // as a rule it is closed by now; where another task holds the connection, that is still to come
        self.handle.once_closed(move |closed| reports.end(closed));
    }
}

impl Reports {
    fn report(&self, stats: Stats, queued: u64) {
        let handles = &self.handles;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn end(&self, closed: &Closed) {
        self.report(closed.stats, 0);
        self.handles.closed(closed.reason.as_str());
        self.handles.open.decrement(1);
        self.handles.lifetime.record(closed.lifetime);
    }
}

#[cfg(all(test, not(getty_loom)))]
pub(crate) mod record;

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use metrics::set_default_local_recorder;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::{record::Sums, *};
    use crate::testing::assert_transparent;
    use getty_core::driver;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_counted_from_its_beginning_to_its_end() {
        let sums = Sums::default();
        let _guard = set_default_local_recorder(&sums);
        let layer = MetricsLayer::new().with_label("listener", "test");
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let get = |name: &str| sums.get(&format!("getty_{name}{{listener=test}}"));
        assert_eq!(
            get("connections_opened_total"),
            Some(0.0),
            "there from the start"
        );
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_eq!(get("connections_opened_total"), Some(1.0));
        assert_eq!(get("connections_open"), Some(1.0));
        assert_pending!(response.poll());

        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let (session, mut driver) = driver::pair::<&str>(connection.handle().clone());
        let ((), mut lease) = connection.into_parts();
        lease.open();
        driver.look();
        let now = driver.moment(Instant::now());
        driver.received(100, now);
        driver.messages_in(3, now);
        session.try_send("one").unwrap();
        session.try_send("two").unwrap();
        let next = driver.next_check().unwrap();
        assert_eq!(next - Instant::now(), Duration::from_secs(10));
        driver.run_checks(next);
        assert_eq!(get("received_bytes_total"), Some(100.0));
        assert_eq!(get("received_messages_total"), Some(3.0));
        assert_eq!(get("queued_messages"), Some(2.0));
        driver.look();
        driver.next_outgoing();
        driver.settle(false);
        driver.messages_out(1);
        driver.received(10, now);
        driver.run_checks(next + Duration::from_secs(10));
        assert_eq!(
            get("received_bytes_total"),
            Some(110.0),
            "what is new is added"
        );
        assert_eq!(get("sent_messages_total"), Some(1.0));
        assert_eq!(get("queued_messages"), Some(1.0));

        driver.sent(7, now);
        driver.skipped();
        tokio::time::advance(Duration::from_secs(3)).await;
        session.close();
        drop(driver);
        drop(lease);
        inner.send_response(());
        assert_ready_ok!(response.poll());
        drop(response);
        assert_eq!(get("sent_bytes_total"), Some(7.0));
        assert_eq!(get("skipped_messages_total"), Some(1.0));
        assert_eq!(get("queued_messages"), Some(0.0));
        assert_eq!(get("connections_open"), Some(0.0));
        assert_eq!(get("connection_lifetime_seconds"), Some(3.0));
        let closed = "getty_connections_closed_total{listener=test,reason=local}";
        assert_eq!(sums.get(closed), Some(1.0));
    }

    #[test]
    fn a_connection_that_is_refused_or_dropped_is_counted_all_the_same() {
        let sums = Sums::default();
        let _guard = set_default_local_recorder(&sums);
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
                inner.send_error("no luck");
                assert_eq!(assert_ready_err!(response.poll()).to_string(), "no luck");
            }
        }
        let closed = sums.get("getty_connections_closed_total{reason=refused}");
        assert_eq!(closed, Some(2.0));
        assert_eq!(sums.get("getty_connections_open"), Some(0.0));
    }

    #[test]
    fn any_interval_is_accepted() {
        for interval in [Duration::ZERO, Duration::MAX] {
            let layer = MetricsLayer::new().with_interval(interval);
            let mut service = layer.layer(tower::service_fn(|connection: Connection<()>| async {
                Ok::<_, std::convert::Infallible>(connection)
            }));
            let response = task::spawn(service.call(Connection::new(()))).poll();
            let connection = assert_ready_ok!(response);
            let (_, mut driver) = driver::pair::<()>(connection.handle().clone());
            driver.look();
            assert_eq!(driver.next_check().is_some(), interval.is_zero());
            driver.run_checks(Instant::now());
        }
    }

    #[test]
    fn around_a_service_it_is_transparent() {
        assert_transparent(&MetricsLayer::new(), || Connection::new(()));
    }
}
