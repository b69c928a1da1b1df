//! Counters of a cluster.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{State, bus::PublishError};

/// Counters and gauges of one node; see [`Cluster::snapshot`](crate::Cluster::snapshot).
///
/// With the feature `metrics` the counters are also published as `getty_cluster_<name>_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// State of the bus.
    pub state: State,
    /// Number of times that the connection to the bus was lost.
    pub disconnects: u64,
    /// Other living nodes.
    pub nodes: usize,
    /// Messages that the bus has taken.
    pub published: u64,
    /// Messages that were refused because the queue to the bus was full.
    pub refused_full: u64,
    /// Messages that were refused because the bus was not connected.
    pub refused_away: u64,
    /// Messages of other nodes that were passed to the members here.
    pub received: u64,
    /// Messages of other nodes that were dropped because a topic's queue was full.
    pub dropped: u64,
    /// Messages that were dropped because this node had received them before.
    pub duplicates: u64,
    /// Messages of other nodes that did not arrive, as of the next message of their publisher.
    pub lost: u64,
    /// Frames that could not be read.
    pub invalid: u64,
    /// Received frames that the bus dropped before this node read them.
    pub unread: u64,
    /// Topics that this node is subscribed to.
    pub subscriptions: u64,
    /// Claims of sessions of this node.
    pub claims: u64,
    /// Sessions closed because another session took their claim.
    pub taken_over: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) subscriptions: AtomicU64,
            pub(crate) claims: AtomicU64,
        }

        impl Counters {
            pub(crate) fn new() -> Self {
                Self {
                    $($name: Counter::new(concat!("getty_cluster_", stringify!($name), "_total")),)*
                    ..Self::default()
                }
            }
        }
    };
}

counters!(
    disconnects,
    published,
    refused_full,
    refused_away,
    received,
    dropped,
    duplicates,
    lost,
    invalid,
    unread,
    taken_over
);

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    value: AtomicU64,
    #[cfg(feature = "metrics")]
    name: &'static str,
}

impl Counter {
    #[cfg_attr(
        not(feature = "metrics"),
        expect(unused_variables, reason = "the name is for metrics only")
    )]
    const fn new(name: &'static str) -> Self {
        Self {
            value: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            name,
        }
    }

    pub(crate) fn add(&self, n: u64) {
        self.value.fetch_add(n, Relaxed);
        #[cfg(feature = "metrics")]
        metrics::counter!(self.name).increment(n);
    }

    fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

impl Counters {
    pub(crate) fn refused(&self, error: PublishError) {
        match error {
            PublishError::Away => self.refused_away.add(1),
            PublishError::Full | PublishError::TooLarge => self.refused_full.add(1),
        }
    }

    pub(crate) fn snapshot(&self, state: State, nodes: usize) -> Snapshot {
        Snapshot {
            state,
            nodes,
            disconnects: self.disconnects.get(),
            published: self.published.get(),
            refused_full: self.refused_full.get(),
            refused_away: self.refused_away.get(),
            received: self.received.get(),
            dropped: self.dropped.get(),
            duplicates: self.duplicates.get(),
            lost: self.lost.get(),
            invalid: self.invalid.get(),
            unread: self.unread.get(),
            subscriptions: self.subscriptions.load(Relaxed),
            claims: self.claims.load(Relaxed),
            taken_over: self.taken_over.get(),
        }
    }
}
