//! Metrics recorder for tests. `tests/life/metrics.rs` of getty includes this file as well.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

type Values = Arc<Mutex<BTreeMap<String, f64>>>;

/// Sum of each metric, by its name with its labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums(Values);

impl Sums {
    /// Returns the sum of a metric or `None` if it was never looked up.
    pub(crate) fn get(&self, metric: &str) -> Option<f64> {
        self.0.lock().unwrap().get(metric).copied()
    }

    fn sum(&self, key: &Key) -> Sum {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = match &labels[..] {
            [] => key.name().to_owned(),
            labels => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        self.0.lock().unwrap().entry(name.clone()).or_default();
        Sum(self.0.clone(), name)
    }
}

struct Sum(Values, String);

impl Sum {
    fn add(&self, value: f64) {
        *self.0.lock().unwrap().get_mut(&self.1).unwrap() += value;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.add(u32::try_from(value).unwrap().into());
    }

    fn absolute(&self, value: u64) {
        panic!("a shared metric was set to {value}");
    }
}

impl GaugeFn for Sum {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, value: f64) {
        panic!("a shared metric was set to {value}");
    }
}

impl HistogramFn for Sum {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.sum(key)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(self.sum(key)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(self.sum(key)))
    }
}
