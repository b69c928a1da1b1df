//! Metrics of sessions: read off now and then, complete at the end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    CodecLayer, ServiceBuilder, SessionLayer,
    layers::{MessageMetricsLayer, MetricsLayer},
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::time::sleep;

use crate::{
    kit::run,
    support::{echo, lines, soon, stream},
};

/// Keeps the sum of each metric by its name and the values of its labels.
#[derive(Clone, Debug, Default)]
struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

struct Sum(Sums, String);

impl Sums {
    fn get(&self, metric: &str) -> f64 {
        let sums = self.0.lock().unwrap();
        sums.get(&format!("getty_{metric}")).copied().unwrap_or(0.0)
    }

    fn sum(&self, key: &Key) -> Arc<Sum> {
        let labels = key.labels().map(|label| format!(" {}", label.value()));
        let name = std::iter::once(key.name().to_owned())
            .chain(labels)
            .collect();
        Arc::new(Sum(self.clone(), name))
    }
}

impl Sum {
    fn add(&self, value: f64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.add(u32::try_from(value).unwrap().into());
    }

    fn absolute(&self, value: u64) {
        panic!("set to {value}, while others count");
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
        panic!("set to {value}, while others count");
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
        Counter::from_arc(self.sum(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.sum(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_are_read_every_ten_seconds_and_at_their_end() {
    let sums = Sums::default();
    let _guard = metrics::set_default_local_recorder(&sums);
    let stack = ServiceBuilder::new()
        .layer(MetricsLayer::new())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .layer(MessageMetricsLayer::new().with_latency())
        .service_fn(|request| async {
            sleep(Duration::from_secs(1)).await;
            echo(request).await
        });
    let (one, one_peer) = stream::pair();
    let (_, one_task) = run(one, stack.clone());
    let (two, two_peer) = stream::pair();
    let (two_handle, two_task) = run(two, stack);

    one_peer.send("hello\n");
    two_peer.send("hello\n");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(sums.get("connections_opened_total"), 2.0);
    assert_eq!(sums.get("connections_open"), 2.0);
    assert_eq!(sums.get("messages_in_flight"), 2.0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(sums.get("messages_in_flight"), 0.0);
    assert!((sums.get("message_latency_seconds") - 2.0).abs() < 0.01);
    assert_eq!(sums.get("received_bytes_total"), 0.0, "not yet looked at");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sums.get("received_bytes_total"), 12.0);
    assert_eq!(sums.get("sent_bytes_total"), 12.0);
    assert_eq!(sums.get("received_messages_total"), 2.0);
    assert_eq!(sums.get("sent_messages_total"), 2.0);

    one_peer.send("bye\n");
    one_peer.finish();
    two_handle.close();
    soon(one_task).await.unwrap().unwrap();
    soon(two_task).await.unwrap().unwrap();
    assert_eq!(sums.get("received_bytes_total"), 16.0);
    assert_eq!(sums.get("sent_messages_total"), 3.0);
    assert_eq!(sums.get("connections_open"), 0.0);
    assert_eq!(sums.get("connections_closed_total peer_closed"), 1.0);
    assert_eq!(sums.get("connections_closed_total local"), 1.0);
    assert!((sums.get("connection_lifetime_seconds") - 22.0).abs() < 0.1);
}
