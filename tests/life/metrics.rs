//! `MetricsLayer`: the counters of a session are published periodically and at the close.

use std::time::Duration;

use getty::{
    CodecLayer, ServiceBuilder, SessionLayer,
    layers::{MessageMetricsLayer, MetricsLayer},
};
use getty_test::{Metrics, stream};
use tokio::time::sleep;

use crate::{
    kit::run,
    support::{echo, lines, soon},
};

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
    let (one, one_peer) = stream();
    let (_, one_task) = run(one, stack.clone());
    let (two, two_peer) = stream();
    let (two_handle, two_task) = run(two, stack);

    one_peer.send("hello\n");
    two_peer.send("hello\n");
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

    one_peer.send("bye\n");
    one_peer.finish();
    two_handle.close();
    soon(one_task).await.unwrap().unwrap();
    soon(two_task).await.unwrap().unwrap();
    assert_eq!(get("received_bytes_total"), 16.0);
    assert_eq!(get("sent_messages_total"), 3.0);
    assert_eq!(get("connections_open"), 0.0);
    assert_eq!(get("connections_closed_total{reason=peer_closed}"), 1.0);
    assert_eq!(get("connections_closed_total{reason=local}"), 1.0);
    assert!((get("connection_lifetime_seconds") - 22.0).abs() < 0.1);
}
