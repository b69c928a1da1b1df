//! Recorder of metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard,
    Metadata, Recorder, SharedString, Unit,
};

/// Records metrics of the facade `metrics` on the current thread.
///
/// A metric is named by its name and its labels in their order, such as
/// `getty_connections_closed_total{reason=peer_closed}`.
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
/// use getty_test::{Metrics, TestSession};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let metrics = Metrics::new();
/// let _guard = metrics.record();
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service(handle(async |line: String| {
///             metrics::counter!("lines", "kind" => "text").increment(1);
///             line
///         })),
/// );
/// session.send("one\ntwo\n");
/// session.lines(2).await;
/// assert_eq!(metrics.get("lines{kind=text}"), Some(2.0));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Values>>);

type Values = BTreeMap<String, Value>;

#[derive(Clone, Debug, Default)]
struct Value {
    sum: f64,
    samples: Vec<f64>,
}

impl Metrics {
    /// Creates a recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records on the current thread until the guard is dropped.
    #[must_use]
    pub fn record(&self) -> LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }

    /// Returns the value of a counter or gauge, or the sum of a histogram. It is `None` if the
    /// metric does not exist.
    #[must_use]
    pub fn get(&self, metric: &str) -> Option<f64> {
        self.lock().get(metric).map(|value| value.sum)
    }

    /// Returns all samples of a histogram. They are empty if it does not exist.
    #[must_use]
    pub fn samples(&self, metric: &str) -> Vec<f64> {
        let value = self.lock().get(metric).cloned();
        value.unwrap_or_default().samples
    }

    /// Returns the names of all metrics, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Asserts the value of a counter or gauge, or the sum of a histogram.
    ///
    /// # Panics
    ///
    /// Panics with all metrics if it has another value.
    #[track_caller]
    pub fn assert(&self, metric: &str, value: f64) {
        let actual = self.get(metric);
        assert!(
            actual == Some(value),
            "{metric} is {actual:?} instead of {value}; all metrics: {:#?}",
            self.lock()
        );
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metric(&self, key: &Key) -> Metric {
        let labels = key.labels();
        let labels: Vec<_> = labels
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = match &labels[..] {
            [] => key.name().to_owned(),
            labels => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        self.lock().entry(name.clone()).or_default();
        Metric(self.clone(), name)
    }
}

struct Metric(Metrics, String);

impl Metric {
    fn change(&self, f: impl FnOnce(&mut Value)) {
        f(self.0.lock().entry(self.1.clone()).or_default());
    }
}

#[allow(clippy::cast_precision_loss, reason = "tests count less than 2^53")]
impl CounterFn for Metric {
    fn increment(&self, value: u64) {
        self.change(|metric| metric.sum += value as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|metric| metric.sum = metric.sum.max(value as f64));
    }
}

impl GaugeFn for Metric {
    fn increment(&self, value: f64) {
        self.change(|metric| metric.sum += value);
    }

    fn decrement(&self, value: f64) {
        self.change(|metric| metric.sum -= value);
    }

    fn set(&self, value: f64) {
        self.change(|metric| metric.sum = value);
    }
}

impl HistogramFn for Metric {
    fn record(&self, value: f64) {
        self.change(|metric| {
            metric.sum += value;
            metric.samples.push(value);
        });
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.metric(key)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(self.metric(key)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(self.metric(key)))
    }
}
