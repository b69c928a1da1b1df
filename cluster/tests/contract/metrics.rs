use std::time::Duration;

use getty_cluster::{ClusterTopics, form::Plain};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::{
    engine::{Net, WAIT},
    support::{Guest, until},
};

/// Returns the value of a metric with these labels, which are in any order.
fn value(rendered: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_it = |line: &&str| {
        let has = |(label, value): &(&str, &str)| line.contains(&format!("{label}=\"{value}\""));
        line.split('{').next() == Some(name) && labels.iter().all(has)
    };
    rendered
        .lines()
        .find(is_it)?
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}

#[tokio::test(start_paused = true)]
async fn counters_and_gauges_are_published_by_bus_and_set() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    // The only test that reads them. The nodes of others also publish.
    metrics::set_global_recorder(recorder).expect("no other test installs a recorder");
    let net = Net::named("metrics", 1);
    let [one, two] = net.nodes().await;
    let rooms: ClusterTopics<String, String> = one.topics("rooms", Plain);
    let others: ClusterTopics<String, String> = two.topics("other", Plain);
    let (guest, second) = (Guest::new(), Guest::new());
    rooms.join("tea".to_owned(), &guest.session);
    assert!(rooms.subscribed("tea", WAIT).await);
    for _ in 0..3 {
        rooms.broadcast("tea", "hello".to_owned()).unwrap();
    }
    let users = one.claims("users");
    for guest in [&guest, &second] {
        users.take("ada", &guest.session).await.unwrap();
    }
    one.cut().await;
    rooms.broadcast("tea", "hello".to_owned()).unwrap();
    one.leave().await;

    let rendered = handle.render();
    let bus = [("bus", "memory"), ("cluster", "metrics")];
    let of = |name, labels: &[_]| value(&rendered, name, &[&bus[..], labels].concat());
    let rooms = ("set", "rooms");
    assert_eq!(of("getty_cluster_published_total", &[rooms]), Some(3.0));
    let away = [rooms, ("cause", "away")];
    assert_eq!(of("getty_cluster_refused_total", &away), Some(1.0));
    assert_eq!(of("getty_cluster_topics", &[rooms]), Some(1.0));
    assert_eq!(of("getty_cluster_subscriptions", &[rooms]), Some(1.0));
    let users = ("set", "users");
    let closed = [users, ("outcome", "closed")];
    assert_eq!(of("getty_cluster_claims_total", &closed), Some(1.0));
    assert_eq!(of("getty_cluster_claims", &[users]), Some(1.0));
    assert_eq!(of("getty_cluster_taken_over_total", &[]), Some(1.0));
    assert_eq!(of("getty_cluster_state", &[]), Some(0.0));
    assert_eq!(of("getty_cluster_disconnects_total", &[]), Some(1.0));
    assert_eq!(of("getty_cluster_nodes", &[]), Some(1.0));
    assert_eq!(of("getty_cluster_queued_frames", &[]), Some(0.0));
    // The other node publishes by itself, every ten seconds.
    assert_eq!(
        of("getty_cluster_published_total", &[("set", "other")]),
        None
    );
    others.broadcast("tea", "hello".to_owned()).unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let published = || {
        let labels = [bus[0], bus[1], ("set", "other")];
        value(&handle.render(), "getty_cluster_published_total", &labels)
    };
    until(|| published() == Some(1.0)).await;

    // The shards of a bus have gauges of their state.
    let [three] = Net::named("sharded", 2).nodes().await;
    three.set_shard(1, false).await;
    three.leave().await;
    let rendered = handle.render();
    let labels = [("bus", "memory"), ("cluster", "sharded")];
    let of_shard = |name, shard| {
        let labels = [&labels[..], &[("shard", shard)]].concat();
        value(&rendered, name, &labels)
    };
    let state = value(&rendered, "getty_cluster_state", &labels);
    assert_eq!(state, Some(1.0));
    for (shard, state, disconnects) in [("0", 2.0, 0.0), ("1", 0.0, 1.0)] {
        let name = "getty_cluster_shard_state";
        assert_eq!(of_shard(name, shard), Some(state));
        let name = "getty_cluster_shard_disconnects_total";
        assert_eq!(of_shard(name, shard), Some(disconnects));
        let name = "getty_cluster_shard_queued_frames";
        assert_eq!(of_shard(name, shard), Some(0.0));
    }
}
