//! Publishes the counters of a node over the facade of the `metrics` crate.
//!
//! A task reads the counters, so that messages have no extra cost.

use std::{sync::Arc, time::Duration};

use metrics::{Label, SharedString, counter, gauge};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{
    ClaimsSnapshot, Snapshot, State, TopicsSnapshot, bus::Shard, cluster::Inner, counters::number,
};

/// Time between two readings of the counters.
const INTERVAL: Duration = Duration::from_secs(10);

/// Publishes the counters, and never returns.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The first time at once. The first tick of `interval` would be a timer of a millisecond.
        publish(&inner);
        ticks.tick().await;
    }
}

/// Publishes the counters of a node.
pub(crate) fn publish(inner: &Inner) {
    let labels = Labels::new(inner);
    node(&inner.snapshot(), &labels);
    for (place, shard) in inner.bus.shards().into_iter().enumerate() {
        of_shard(&shard, &labels.with("shard", place.to_string()));
    }
    for (name, snapshot) in inner.set_snapshots() {
        topics(&snapshot, &labels.with("set", name.to_string()));
    }
    for set in inner.claim_sets() {
        let labels = labels.with("set", set.name().to_owned());
        claims(&set.counters.snapshot(set.len()), &labels);
    }
}

#[derive(Clone)]
struct Labels(Vec<Label>);

impl Labels {
    fn new(inner: &Inner) -> Self {
        Self(vec![
            Label::new("bus", inner.bus.kind()),
            Label::new("cluster", inner.namespace.clone()),
        ])
    }

    fn with(&self, name: &'static str, value: impl Into<SharedString>) -> Self {
        let mut labels = self.clone();
        labels.0.push(Label::new(name, value.into()));
        labels
    }

    fn count(&self, name: &'static str, value: u64) {
        counter!(name, self.0.clone()).absolute(value);
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name, self.0.clone()).set(value);
    }

    fn set_number(&self, name: &'static str, value: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge is a floating-point number"
        )]
        self.set(name, value as f64);
    }
}

const fn state(state: State) -> f64 {
    match state {
        State::Down { .. } => 0.0,
        State::Settling | State::Partial { .. } => 1.0,
        State::Up => 2.0,
    }
}

fn of_shard(shard: &Shard, labels: &Labels) {
    labels.set("getty_cluster_shard_state", state(shard.state));
    labels.count("getty_cluster_shard_disconnects_total", shard.disconnects);
    labels.set_number(
        "getty_cluster_shard_queued_frames",
        number(shard.bus.queued_frames),
    );
    if let Some(probe) = shard.bus.probe {
        labels.set("getty_cluster_shard_probe_seconds", probe.as_secs_f64());
    }
}

fn node(snapshot: &Snapshot, labels: &Labels) {
    labels.set("getty_cluster_state", state(snapshot.state));
    labels.count("getty_cluster_disconnects_total", snapshot.disconnects);
    labels.count("getty_cluster_unread_total", snapshot.unread);
    labels.count("getty_cluster_invalid_total", snapshot.invalid);
    labels.count("getty_cluster_taken_over_total", snapshot.taken_over);
    labels.set_number("getty_cluster_nodes", number(snapshot.nodes));
    let queue = snapshot.bus;
    labels.set_number("getty_cluster_queued_frames", number(queue.queued_frames));
    labels.set_number("getty_cluster_queued_bytes", number(queue.queued_bytes));
    for (name, time) in [
        ("getty_cluster_probe_seconds", queue.probe),
        ("getty_cluster_settle_seconds", snapshot.settled_in),
    ] {
        if let Some(time) = time {
            labels.set(name, time.as_secs_f64());
        }
    }
}

fn topics(snapshot: &TopicsSnapshot, labels: &Labels) {
    let refused = |cause| labels.with("cause", cause);
    for (labels, name, value) in [
        (labels, "getty_cluster_published_total", snapshot.published),
        (labels, "getty_cluster_received_total", snapshot.received),
        (labels, "getty_cluster_lost_total", snapshot.lost),
        (
            &refused("full"),
            "getty_cluster_refused_total",
            snapshot.refused_full,
        ),
        (
            &refused("away"),
            "getty_cluster_refused_total",
            snapshot.refused_away,
        ),
        (
            &refused("too_large"),
            "getty_cluster_refused_total",
            snapshot.refused_too_large,
        ),
        (
            &refused("queue"),
            "getty_cluster_dropped_total",
            snapshot.dropped,
        ),
        (
            &refused("duplicate"),
            "getty_cluster_dropped_total",
            snapshot.duplicates,
        ),
        (
            &refused("invalid"),
            "getty_cluster_dropped_total",
            snapshot.invalid,
        ),
    ] {
        labels.count(name, value);
    }
    labels.set_number("getty_cluster_topics", snapshot.topics);
    labels.set_number("getty_cluster_subscriptions", snapshot.subscriptions);
}

fn claims(snapshot: &ClaimsSnapshot, labels: &Labels) {
    labels.set_number("getty_cluster_claims", snapshot.claims);
    for (outcome, value) in [
        ("free", snapshot.free),
        ("closed", snapshot.closed),
        ("unreachable", snapshot.unreachable),
        ("admitted", snapshot.admitted),
        ("taken", snapshot.taken),
        ("contended", snapshot.contended),
        ("ended", snapshot.ended),
        ("failed", snapshot.failed),
    ] {
        let labels = labels.with("outcome", outcome);
        labels.count("getty_cluster_claims_total", value);
    }
    labels.count("getty_cluster_lost_names_total", snapshot.lost);
}
