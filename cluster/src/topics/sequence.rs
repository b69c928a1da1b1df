//! Numbers of a node's messages to each topic.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Mutex,
};

use crate::{Subject, lock};

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
    /// Name of the topic on the bus, which is built once.
    subject: Subject,
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

    /// Calls `publish` with the subject of a topic, its next number, and with `true` if its counter
    /// is new. Calls for one topic are in the order of their numbers. `publish` must not block.
    pub(super) fn next<R>(
        &self,
        key: &[u8],
        subject: impl FnOnce() -> Subject,
        publish: impl FnOnce(&Subject, u64, bool) -> R,
    ) -> R {
        let hash = self.hasher.hash_one(key) % SHARDS as u64;
        let shard = usize::try_from(hash).unwrap_or_default();
        let mut counters = lock(&self.shards[shard]);
        if let Some(counter) = counters.get_mut(key) {
            counter.last += 1;
            counter.used = true;
            return publish(&counter.subject, counter.last, false);
        }
        if counters.len() >= self.limit {
            counters.retain(|_, counter| std::mem::take(&mut counter.used));
        }
        let counter = Counter {
            subject: subject(),
            last: 1,
            used: true,
        };
        let counter = counters.entry(key.into()).or_insert(counter);
        publish(&counter.subject, 1, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_topic_have_no_gap_and_unused_counters_are_removed() {
        let sequences = Sequences::new(64);
        let next = |key: &[u8]| {
            let subject = || Subject::topic("app", "rooms", key);
            sequences.next(key, subject, |to, n, fresh| {
                assert_eq!(*to, subject());
                (n, fresh)
            })
        };
        assert_eq!(next(b"hot"), (1, true));
        for other in 0..100_000_u32 {
            assert_eq!(next(&other.to_be_bytes()), (1, true));
            let hot = next(b"hot");
            assert_eq!(hot, (u64::from(other) + 2, false));
        }
        let counters: usize = sequences.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(counters <= 32 * 64, "{counters}");
    }
}
