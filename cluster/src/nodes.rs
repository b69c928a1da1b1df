//! Table of the nodes of a cluster, from their beats.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{NodeId, lock};

/// Time between two beats of a node in a small cluster.
const PERIOD: Duration = Duration::from_secs(3);
/// Addition to the period for each node, which bounds the beats of a large cluster.
const PERIOD_OF_EACH: Duration = Duration::from_millis(10);
/// Beats that may be missed.
const MISSED: u32 = 3;
/// Time that the last beat may be late.
const GRACE: Duration = Duration::from_secs(1);

/// A living node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The id.
    pub id: NodeId,
    /// The name that was set with [`ClusterBuilder::named`](crate::ClusterBuilder::named).
    pub name: Arc<str>,
}

#[derive(Default)]
pub(crate) struct Nodes {
    table: Mutex<HashMap<NodeId, Entry>>,
    /// Number of nodes that have come or gone.
    changed: watch::Sender<u64>,
    /// Time at which this node began to hear all others. `None` before it is connected.
    listens_since: Mutex<Option<Instant>>,
}

struct Entry {
    name: Arc<str>,
    heard: Instant,
}

impl Nodes {
    /// Returns the time between two beats.
    pub(crate) fn period(&self) -> Duration {
        let nodes = u32::try_from(lock(&self.table).len() + 1).unwrap_or(u32::MAX);
        PERIOD.max(PERIOD_OF_EACH.saturating_mul(nodes))
    }

    /// Takes note of a beat. Returns `true` if the node was not known.
    pub(crate) fn heard(&self, id: NodeId, name: &str) -> bool {
        let mut table = lock(&self.table);
        let heard = Instant::now();
        let is_new = if let Some(entry) = table.get_mut(&id) {
            entry.heard = heard;
            false
        } else {
            let name = name.into();
            table.insert(id, Entry { name, heard });
            true
        };
        drop(table);
        if is_new {
            self.count_change();
        }
        is_new
    }

    pub(crate) fn remove(&self, id: NodeId) -> bool {
        let was_known = lock(&self.table).remove(&id).is_some();
        if was_known {
            self.count_change();
        }
        was_known
    }

    fn count_change(&self) {
        self.changed
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Returns what changes when a node comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the age of the last beat of a node that is dead.
    pub(crate) fn limit(&self) -> Duration {
        self.period() * MISSED + GRACE
    }

    /// Returns the time at which the next node is dead if it is not heard again.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let limit = self.limit();
        let table = lock(&self.table);
        let oldest = table.values().map(|entry| entry.heard).min()?;
        Some(oldest + limit)
    }

    /// Removes the nodes whose beats are missing, and returns them.
    pub(crate) fn expire(&self) -> Vec<Node> {
        let limit = self.limit();
        let now = Instant::now();
        let mut table = lock(&self.table);
        let dead = table.extract_if(|_, entry| now.duration_since(entry.heard) >= limit);
        let dead: Vec<_> = dead
            .map(|(id, Entry { name, .. })| Node { id, name })
            .collect();
        drop(table);
        if !dead.is_empty() {
            self.count_change();
        }
        dead
    }

    /// Gives all nodes the time to be heard again, after this node was cut off.
    pub(crate) fn restart(&self) {
        let now = Instant::now();
        *lock(&self.listens_since) = Some(now);
        for entry in lock(&self.table).values_mut() {
            entry.heard = now;
        }
    }

    pub(crate) fn is_alive(&self, id: NodeId) -> bool {
        lock(&self.table).contains_key(&id)
    }

    /// Returns `true` if the node is not alive, and this node has listened for long enough to know.
    pub(crate) fn is_dead(&self, id: NodeId) -> bool {
        let limit = self.limit();
        let since = *lock(&self.listens_since);
        !self.is_alive(id) && since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Waits until the node is known.
    pub(crate) async fn wait_for(&self, id: NodeId) {
        let mut changes = self.changes();
        while !self.is_alive(id) {
            // It fails only if the sender is dropped, and `self` keeps it.
            let _ = changes.changed().await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.table).len()
    }

    pub(crate) fn list(&self) -> Vec<Node> {
        let table = lock(&self.table);
        let nodes = table.iter().map(|(&id, Entry { name, .. })| Node {
            id,
            name: Arc::clone(name),
        });
        nodes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn node_is_dead_within_ten_seconds_of_its_last_beat() {
        let nodes = Nodes::default();
        assert!(nodes.heard(NodeId(1), "one"));
        assert!(!nodes.heard(NodeId(1), "one"));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(nodes.expire().is_empty());
        nodes.heard(NodeId(2), "two");
        tokio::time::advance(Duration::from_secs(1)).await;
        let dead: Vec<_> = nodes.expire().iter().map(|node| node.id).collect();
        assert_eq!(dead, [NodeId(1)]);
        assert!(nodes.is_alive(NodeId(2)));
    }

    #[test]
    fn beats_of_a_large_cluster_are_bounded() {
        let nodes = Nodes::default();
        for id in 0..999 {
            nodes.heard(NodeId(id), "");
        }
        assert_eq!(nodes.period(), Duration::from_secs(10));
    }
}
