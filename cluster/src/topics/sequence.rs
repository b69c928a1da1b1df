//! Numbers of a node's messages to each topic.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Mutex,
};

use crate::lock;

const SHARDS: usize = 32;

/// Counters of messages by topic. They are created by the first message to a topic. One that
/// was not used for a long time is removed when there are too many.
pub(super) struct Sequences {
    shards: [Mutex<HashMap<Box<[u8]>, Counter>>; SHARDS],
    hasher: RandomState,
    /// Number of counters of a shard from which unused ones are removed.
    limit: usize,
}

struct Counter {
    last: u64,
    /// `true` if it was used since the last time that unused ones were removed.
    used: bool,
}

impl Sequences {
    pub(super) fn new(topics: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            limit: (2 * topics / SHARDS).max(64),
        }
    }

    /// Calls `publish` with the next number of a topic, and with `true` if its counter is new.
    /// Calls for one topic are in the order of their numbers. `publish` must not block.
    pub(super) fn next<R>(&self, key: &[u8], publish: impl FnOnce(u64, bool) -> R) -> R {
        let hash = self.hasher.hash_one(key) % SHARDS as u64;
        let shard = usize::try_from(hash).unwrap_or_default();
        let mut counters = lock(&self.shards[shard]);
        if let Some(counter) = counters.get_mut(key) {
            counter.last += 1;
            counter.used = true;
            return publish(counter.last, false);
        }
        if counters.len() >= self.limit {
            counters.retain(|_, counter| std::mem::take(&mut counter.used));
        }
        let counter = Counter {
            last: 1,
            used: true,
        };
        counters.insert(key.into(), counter);
        publish(1, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_topic_have_no_gap_and_unused_counters_are_removed() {
        let sequences = Sequences::new(64);
        assert_eq!(sequences.next(b"hot", |n, fresh| (n, fresh)), (1, true));
        for other in 0..100_000_u32 {
            sequences.next(&other.to_be_bytes(), |n, fresh| {
                assert_eq!((n, fresh), (1, true));
            });
            let hot = sequences.next(b"hot", |n, fresh| (n, fresh));
            assert_eq!(hot, (u64::from(other) + 2, false));
        }
        let counters: usize = sequences.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(counters <= 32 * 64, "{counters}");
    }
}
