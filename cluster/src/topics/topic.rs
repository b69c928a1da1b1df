//! A topic with a subscription, which receives messages of other nodes.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Weak, atomic::AtomicU64},
};

use super::{Shared, seen::Seen};
use crate::{
    Key,
    dispatch::{Message, Receive, Waiting},
    lock,
};

/// A topic with a subscription.
pub(super) struct Topic<K: Key, Out> {
    pub(super) key: K,
    /// Bytes of the key.
    pub(super) bytes: Box<[u8]>,
    /// Number of the batch that subscribes to it.
    pub(super) batch: u64,
    /// Number of its place among the lingering topics, or 0 while it has members.
    pub(super) lingering: AtomicU64,
    shared: Weak<Shared<K, Out>>,
    waiting: Waiting,
    seen: Mutex<Seen>,
}

impl<K: Key, Out> Topic<K, Out> {
    pub(super) fn new(key: K, bytes: Box<[u8]>, shared: Weak<Shared<K, Out>>, batch: u64) -> Self {
        Self {
            key,
            bytes,
            batch,
            lingering: AtomicU64::new(0),
            shared,
            waiting: Waiting::default(),
            seen: Mutex::default(),
        }
    }
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Receive for Topic<K, Out> {
    fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    fn receive(&self, messages: &mut VecDeque<Message>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let counters = &shared.counters;
        // One task at a time is here.
        let mut seen = lock(&self.seen);
        let mut received = 0;
        for Message { header, payload } in messages.drain(..) {
            let Some(missed) = seen.check(&header, &shared.inner.nodes) else {
                counters.duplicates.add(1);
                continue;
            };
            // Forms and notices are code of the application. A panic must not end the dispatcher.
            let receive = || shared.receive(&self.key, header.origin, missed, payload);
            match catch_unwind(AssertUnwindSafe(receive)) {
                Ok(is_read) => received += u64::from(is_read),
                Err(_) => {
                    counters.invalid.add(1);
                    tracing::error!(target: "getty::cluster", "a form or a notice has panicked");
                }
            }
        }
        if received > 0 {
            counters.received.add(received);
        }
    }
}
