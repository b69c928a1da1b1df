//! Subscriptions of a node: one for each topic with members here, and for some time after.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    hash::Hash,
    sync::{Arc, Mutex, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Shared;
use crate::{Key, Subject, lock};

/// Time that a subscription outlives the last member, at least, so that short absences and many
/// closes at once cause no burst of changes.
const LINGER: Duration = Duration::from_secs(25);
/// Random addition to it.
const LINGER_JITTER: Duration = Duration::from_secs(10);
/// Number of subscriptions that may always outlive their last member. Beyond it, a tenth of all may.
const MAY_LINGER: usize = 64;
/// Maximum number of changes that are passed to the bus together.
const BATCH: usize = 512;

/// Topics whose members have changed, and topics with a subscription.
pub(super) struct Interest<K> {
    dirty: Mutex<HashSet<K>>,
    held: Mutex<HashMap<K, Option<u64>>>,
    pushed: Notify,
    changed: Notify,
}

impl<K> Default for Interest<K> {
    fn default() -> Self {
        Self {
            dirty: Mutex::default(),
            held: Mutex::default(),
            pushed: Notify::new(),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Interest<K> {
    /// Takes note that a topic was created or removed.
    pub(super) fn changed(&self, key: &K) {
        lock(&self.dirty).insert(key.clone());
        self.pushed.notify_one();
    }

    /// Returns `true` if this node has a subscription to the topic.
    pub(super) fn holds(&self, key: &K) -> bool {
        lock(&self.held).contains_key(key)
    }

    /// Waits until this node has a subscription to the topic.
    pub(super) async fn held<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        loop {
            let changed = self.changed.notified();
            if lock(&self.held).contains_key(key) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    fn take_dirty(&self) -> Vec<K> {
        let mut dirty = lock(&self.dirty);
        if dirty.len() <= BATCH {
            return std::mem::take(&mut *dirty).into_iter().collect();
        }
        let batch: Vec<K> = dirty.iter().take(BATCH).cloned().collect();
        for key in &batch {
            dirty.remove(key);
        }
        batch
    }
}

/// State of the task that follows the interest.
struct Follower<K> {
    /// Number of topics for each subject. It is 1 without buckets.
    subjects: HashMap<Subject, usize>,
    /// Topics without members, by the time at which their subscription ends.
    lingering: BTreeMap<(Instant, u64), K>,
    /// Time for each number in `held`.
    times: HashMap<u64, Instant>,
    number: u64,
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Shared<K, Out> {
    /// Starts the task that keeps the subscriptions equal to the topics with members.
    pub(super) fn follow_interest(self: &Arc<Self>) {
        let shared = Arc::downgrade(self);
        let interest = Arc::clone(&self.interest);
        self.inner.runtime.spawn(async move {
            let mut follower = Follower {
                subjects: HashMap::new(),
                lingering: BTreeMap::new(),
                times: HashMap::new(),
                number: 0,
            };
            while follower.step(&shared) {
                let pushed = interest.pushed.notified();
                if !lock(&interest.dirty).is_empty() {
                    tokio::task::yield_now().await;
                    continue;
                }
                match follower.lingering.first_key_value() {
                    Some((&(end, _), _)) => tokio::select! {
                        () = pushed => {}
                        () = sleep_until(end) => {}
                    },
                    None => pushed.await,
                }
            }
        });
    }
}

impl<K: Key> Follower<K> {
    /// Handles a batch of changes. Returns `false` once the topics are dropped.
    fn step<Out: Clone + Send + Sync + 'static>(&mut self, shared: &Weak<Shared<K, Out>>) -> bool {
        let Some(shared) = shared.upgrade() else {
            return false;
        };
        let mut changes = Vec::new();
        let dirty = shared.interest.take_dirty();
        let any = !dirty.is_empty();
        for key in dirty {
            if shared.topics.count(&key) > 0 {
                self.want(&shared, key, &mut changes);
            } else {
                self.linger(&shared, key);
            }
        }
        self.end_lingering(&shared, &mut changes);
        if !changes.is_empty() {
            shared.inner.bus.subscribe(&changes);
        }
        if any || !changes.is_empty() {
            let held = lock(&shared.interest.held).len();
            let held = u64::try_from(held).unwrap_or(u64::MAX);
            shared.inner.counters.subscriptions.store(held, Relaxed);
            shared.interest.wake();
        }
        true
    }

    fn want<Out: 'static>(
        &mut self,
        shared: &Shared<K, Out>,
        key: K,
        changes: &mut Vec<(Subject, bool)>,
    ) {
        let subject = shared.subject(&key.key_bytes());
        let mut held = lock(&shared.interest.held);
        match held.entry(key) {
            hash_map::Entry::Occupied(mut entry) => {
                if let Some(number) = entry.insert(None)
                    && let Some(end) = self.times.remove(&number)
                {
                    self.lingering.remove(&(end, number));
                }
            }
            hash_map::Entry::Vacant(entry) => {
                entry.insert(None);
                let topics = self.subjects.entry(subject.clone()).or_default();
                *topics += 1;
                if *topics == 1 {
                    changes.push((subject, true));
                }
            }
        }
    }

    fn linger<Out: 'static>(&mut self, shared: &Shared<K, Out>, key: K) {
        let mut held = lock(&shared.interest.held);
        let Some(lingering @ None) = held.get_mut(&key) else {
            return;
        };
        self.number += 1;
        *lingering = Some(self.number);
        let end = Instant::now() + LINGER + LINGER_JITTER.mul_f64(fastrand::f64());
        self.times.insert(self.number, end);
        self.lingering.insert((end, self.number), key);
    }

    fn end_lingering<Out: 'static>(
        &mut self,
        shared: &Shared<K, Out>,
        changes: &mut Vec<(Subject, bool)>,
    ) {
        let now = Instant::now();
        let may_linger = MAY_LINGER.max(lock(&shared.interest.held).len() / 10);
        while let Some(first) = self.lingering.first_entry() {
            if first.key().0 > now && self.lingering.len() <= may_linger {
                break;
            }
            let Some(((_, number), key)) = self.lingering.pop_first() else {
                break;
            };
            self.times.remove(&number);
            lock(&shared.interest.held).remove(&key);
            let bytes = key.key_bytes();
            lock(&shared.seen).forget(&bytes);
            let subject = shared.subject(&bytes);
            if let hash_map::Entry::Occupied(mut topics) = self.subjects.entry(subject) {
                *topics.get_mut() -= 1;
                if *topics.get() == 0 {
                    changes.push((topics.remove_entry().0, false));
                }
            }
        }
    }
}

impl<K, Out> Drop for Shared<K, Out> {
    fn drop(&mut self) {
        // The task ends because the topics are gone.
        self.interest.pushed.notify_one();
    }
}
