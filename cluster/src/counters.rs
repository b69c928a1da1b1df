//! Counters of a cluster.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    ClaimError, Claimed, Previous, State,
    bus::{BusStats, PublishError},
};

/// Counters and gauges of one node; see [`Cluster::snapshot`](crate::Cluster::snapshot).
///
/// With the feature `metrics` they are also published; see the [metrics](crate#metrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// State of the bus.
    pub state: State,
    /// Number of times that the connection to the bus was lost.
    pub disconnects: u64,
    /// Time from the last connection until all subscriptions were in effect, or `None` before.
    pub settled_in: Option<Duration>,
    /// Queue and probe of the connection.
    pub bus: BusStats,
    /// Other living nodes.
    pub nodes: usize,
    /// Messages that the bus has taken.
    pub published: u64,
    /// Messages that were refused because the queue to the bus was full.
    pub refused_full: u64,
    /// Messages that were refused because the bus was not connected.
    pub refused_away: u64,
    /// Messages that were refused because they were too long for the bus.
    pub refused_too_large: u64,
    /// Messages of other nodes that were passed to the members here.
    pub received: u64,
    /// Messages of other nodes that were dropped because a topic's queue was full.
    pub dropped: u64,
    /// Messages that were dropped because this node had received them before.
    pub duplicates: u64,
    /// Messages of other nodes that did not arrive, as of the next message of their publisher.
    pub lost: u64,
    /// Frames that could not be read, that exceed a limit, or whose node has another order of
    /// shards.
    pub invalid: u64,
    /// Received frames that this node has not handled: its queue was full, or it had too many
    /// watchers.
    pub unread: u64,
    /// Topics with members on this node.
    pub topics: u64,
    /// Topics that this node is subscribed to. Each outlives its last member for a while.
    pub subscriptions: u64,
    /// Claims of sessions of this node.
    pub claims: u64,
    /// Sessions closed because another session took their claim.
    pub taken_over: u64,
}

/// Counters of one set of topics on this node; see
/// [`ClusterTopics::snapshot`](crate::ClusterTopics::snapshot). The fields are those of
/// [`Snapshot`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are those of `Snapshot`")]
pub struct TopicsSnapshot {
    pub published: u64,
    pub refused_full: u64,
    pub refused_away: u64,
    pub refused_too_large: u64,
    pub received: u64,
    pub dropped: u64,
    pub duplicates: u64,
    pub lost: u64,
    pub invalid: u64,
    pub topics: u64,
    pub subscriptions: u64,
}

/// Counters of claims on this node; see [`Claims::snapshot`](crate::Claims::snapshot).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimsSnapshot {
    /// Claims of sessions of this node, now.
    pub claims: u64,
    /// Claims without an earlier session.
    pub free: u64,
    /// Claims whose earlier session was closed.
    pub closed: u64,
    /// Claims whose earlier session could not be reached.
    pub unreachable: u64,
    /// Claims that were admitted while the store was away.
    pub admitted: u64,
    /// Claims that failed because the name was taken.
    pub taken: u64,
    /// Claims that failed because other nodes claimed the name at the same time.
    pub contended: u64,
    /// Claims that failed because their session had closed.
    pub ended: u64,
    /// Claims that failed because of the store.
    pub failed: u64,
    /// Names that sessions have lost and that they had from
    /// [`take_free`](crate::Claims::take_free).
    pub lost: u64,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of a node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) disconnects: Counter,
    pub(crate) invalid: Counter,
    pub(crate) unread: Counter,
    pub(crate) taken_over: Counter,
    /// Counters of sets of topics that were dropped.
    pub(crate) dropped_sets: TopicCounters,
}

/// Counters of a set of topics.
#[derive(Debug, Default)]
pub(crate) struct TopicCounters {
    pub(crate) published: Counter,
    pub(crate) refused_full: Counter,
    pub(crate) refused_away: Counter,
    pub(crate) refused_too_large: Counter,
    pub(crate) received: Counter,
    pub(crate) dropped: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) lost: Counter,
    pub(crate) invalid: Counter,
}

impl TopicCounters {
    pub(crate) fn refused(&self, error: PublishError) {
        match error {
            PublishError::Away => self.refused_away.add(1),
            PublishError::Full => self.refused_full.add(1),
            PublishError::TooLarge => self.refused_too_large.add(1),
        }
    }

    pub(crate) fn snapshot(&self, topics: usize, subscriptions: usize) -> TopicsSnapshot {
        TopicsSnapshot {
            published: self.published.get(),
            refused_full: self.refused_full.get(),
            refused_away: self.refused_away.get(),
            refused_too_large: self.refused_too_large.get(),
            received: self.received.get(),
            dropped: self.dropped.get(),
            duplicates: self.duplicates.get(),
            lost: self.lost.get(),
            invalid: self.invalid.get(),
            topics: number(topics),
            subscriptions: number(subscriptions),
        }
    }

    /// Adds the counters of a set that is dropped.
    pub(crate) fn add(&self, set: &Self) {
        self.published.add(set.published.get());
        self.refused_full.add(set.refused_full.get());
        self.refused_away.add(set.refused_away.get());
        self.refused_too_large.add(set.refused_too_large.get());
        self.received.add(set.received.get());
        self.dropped.add(set.dropped.get());
        self.duplicates.add(set.duplicates.get());
        self.lost.add(set.lost.get());
        self.invalid.add(set.invalid.get());
    }
}

impl Counters {
    /// Returns the counters of the node, with those of its sets.
    pub(crate) fn snapshot(
        &self,
        state: State,
        bus: BusStats,
        sets: impl IntoIterator<Item = TopicsSnapshot>,
    ) -> Snapshot {
        let mut snapshot = Snapshot {
            state,
            bus,
            disconnects: self.disconnects.get(),
            settled_in: None,
            nodes: 0,
            published: 0,
            refused_full: 0,
            refused_away: 0,
            refused_too_large: 0,
            received: 0,
            dropped: 0,
            duplicates: 0,
            lost: 0,
            invalid: self.invalid.get(),
            unread: self.unread.get(),
            topics: 0,
            subscriptions: 0,
            claims: 0,
            taken_over: self.taken_over.get(),
        };
        let dropped = self.dropped_sets.snapshot(0, 0);
        for set in sets.into_iter().chain([dropped]) {
            snapshot.published += set.published;
            snapshot.refused_full += set.refused_full;
            snapshot.refused_away += set.refused_away;
            snapshot.refused_too_large += set.refused_too_large;
            snapshot.received += set.received;
            snapshot.dropped += set.dropped;
            snapshot.duplicates += set.duplicates;
            snapshot.lost += set.lost;
            snapshot.invalid += set.invalid;
            snapshot.topics += set.topics;
            snapshot.subscriptions += set.subscriptions;
        }
        snapshot
    }
}

/// Counters of a set of claims.
#[derive(Debug, Default)]
pub(crate) struct ClaimCounters {
    free: Counter,
    closed: Counter,
    unreachable: Counter,
    admitted: Counter,
    taken: Counter,
    contended: Counter,
    ended: Counter,
    failed: Counter,
    pub(crate) lost: Counter,
}

impl ClaimCounters {
    /// Takes note of the result of a claim.
    pub(crate) fn count(&self, result: &Result<Claimed, ClaimError>) {
        let counter = match result {
            Ok(claimed) => match claimed.previous {
                Previous::None => &self.free,
                Previous::Closed => &self.closed,
                Previous::Unreachable => &self.unreachable,
                Previous::Unknown => &self.admitted,
            },
            Err(ClaimError::Taken) => &self.taken,
            Err(ClaimError::Contended) => &self.contended,
            Err(ClaimError::Closed) => &self.ended,
            Err(ClaimError::TooLong | ClaimError::NoStore | ClaimError::Store(_)) => &self.failed,
        };
        counter.add(1);
    }

    pub(crate) fn snapshot(&self, claims: usize) -> ClaimsSnapshot {
        ClaimsSnapshot {
            claims: number(claims),
            free: self.free.get(),
            closed: self.closed.get(),
            unreachable: self.unreachable.get(),
            admitted: self.admitted.get(),
            taken: self.taken.get(),
            contended: self.contended.get(),
            ended: self.ended.get(),
            failed: self.failed.get(),
            lost: self.lost.get(),
        }
    }
}

/// Returns a number of things in memory.
pub(crate) fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
