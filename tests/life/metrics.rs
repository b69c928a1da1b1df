//! `MetricsLayer`: the counters of a session are published periodically and at the close.

use std::time::Duration;

use getty::{
    CodecLayer, ServiceBuilder, SessionLayer,
    layers::{MessageMetricsLayer, MetricsLayer},
};
use getty_test::{Metrics, TestSession};
use tokio::time::sleep;

use crate::support::{echo, lines};

#[tokio::test(start_paused = true)]
async fn session_counters_are_published_every_ten_seconds_and_at_the_close() {
    let metrics = Metrics::new();
    let _guard = metrics.record();
    let get = |metric| metrics.get(&format!("getty_{metric}")).unwrap_or(0.0);
    let stack = ServiceBuilder::new()
        .layer(MetricsLayer::new())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .layer(MessageMetricsLayer::new().with_latency())
        .service_fn(|request| async {
            sleep(Duration::from_secs(1)).await;
            echo(request).await
        });
    let one = TestSession::stream(stack.clone());
    let two = TestSession::stream(stack);

    one.send("hello\n");
    two.send("hello\n");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(get("connections_opened_total"), 2.0);
    assert_eq!(get("connections_open"), 2.0);
    assert_eq!(get("messages_in_flight"), 2.0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(get("messages_in_flight"), 0.0);
    assert!((get("message_latency_seconds") - 2.0).abs() < 0.01);
    assert_eq!(get("received_bytes_total"), 0.0, "not published yet");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(get("received_bytes_total"), 12.0);
    assert_eq!(get("sent_bytes_total"), 12.0);
    assert_eq!(get("received_messages_total"), 2.0);
    assert_eq!(get("sent_messages_total"), 2.0);

    one.send("bye\n");
    one.finish();
    two.close();
    one.closed().await;
    two.closed().await;
    assert_eq!(get("received_bytes_total"), 16.0);
    assert_eq!(get("sent_messages_total"), 3.0);
    assert_eq!(get("connections_open"), 0.0);
    assert_eq!(get("connections_closed_total{reason=peer_closed}"), 1.0);
    assert_eq!(get("connections_closed_total{reason=local}"), 1.0);
    assert!((get("connection_lifetime_seconds") - 22.0).abs() < 0.1);
}
