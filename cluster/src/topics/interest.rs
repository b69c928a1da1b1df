//! Subscriptions of a node: one for each topic with members here, and for some time after.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Shared, topic::Topic};
use crate::{Key, KeyBytes, Subject, lock};

/// Time that a subscription outlives the last member, at least, so that short absences and many
/// closes at once cause no burst of changes.
const LINGER: Duration = Duration::from_secs(25);
/// Random addition to it.
const LINGER_JITTER: Duration = Duration::from_secs(10);
/// Time after which a subscription is ended whose topic had waiting messages at its end.
const RETRY: Duration = Duration::from_secs(1);
/// Number of subscriptions that may always outlive their last member. Above it, a tenth may.
const MAY_LINGER: usize = 64;
/// Maximum number of changes that are passed to the bus together.
const BATCH: usize = 512;

/// Topics whose members have changed, and topics with a subscription.
pub(super) struct Interest<K: Key, Out> {
    dirty: Mutex<HashSet<K>>,
    held: Mutex<HashSet<Held<K, Out>>>,
    /// Number of the last batch of changes that the bus has.
    passed: AtomicU64,
    pushed: Notify,
    changed: Notify,
}

/// A topic with a subscription, by the bytes of its key.
struct Held<K: Key, Out>(Arc<Topic<K, Out>>);

impl<K: Key, Out> Borrow<[u8]> for Held<K, Out> {
    fn borrow(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl<K: Key, Out> Hash for Held<K, Out> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self.0.bytes).hash(state);
    }
}

impl<K: Key, Out> PartialEq for Held<K, Out> {
    fn eq(&self, other: &Self) -> bool {
        *self.0.bytes == *other.0.bytes
    }
}

impl<K: Key, Out> Eq for Held<K, Out> {}

impl<K: Key, Out> Default for Interest<K, Out> {
    fn default() -> Self {
        Self {
            dirty: Mutex::default(),
            held: Mutex::default(),
            passed: AtomicU64::new(0),
            pushed: Notify::new(),
            changed: Notify::new(),
        }
    }
}

impl<K: Key, Out> Interest<K, Out> {
    /// Records that a topic was created or removed.
    pub(super) fn changed(&self, key: &K) {
        lock(&self.dirty).insert(key.clone());
        self.pushed.notify_one();
    }

    /// Returns the topic with this key, if this node has a subscription to it.
    pub(super) fn topic(&self, key: &[u8]) -> Option<Arc<Topic<K, Out>>> {
        let held = lock(&self.held);
        held.get(key).map(|held| Arc::clone(&held.0))
    }

    /// Waits until the bus has taken the subscription to the topic.
    pub(super) async fn held<Q>(&self, key: &Q)
    where
        Q: KeyBytes + ?Sized,
    {
        let key = key.key_bytes();
        loop {
            let changed = self.changed.notified();
            let batch = self.topic(&key).map(|topic| topic.batch);
            if batch.is_some_and(|batch| batch <= self.passed.load(Acquire)) {
                return;
            }
            changed.await;
        }
    }

    /// Returns the number of topics with a subscription.
    pub(super) fn len(&self) -> usize {
        lock(&self.held).len()
    }

    /// Removes and returns the topics with a subscription.
    pub(super) fn take(&self) -> Vec<Arc<Topic<K, Out>>> {
        let mut held = lock(&self.held);
        held.drain().map(|held| held.0).collect()
    }

    /// Wakes the task that follows the interest.
    pub(super) fn wake(&self) {
        self.pushed.notify_one();
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
    /// Number of topics of each bucket. It is empty without buckets.
    buckets: HashMap<Subject, usize>,
    /// Topics without members, by the time at which their subscription ends.
    lingering: BTreeMap<(Instant, u64), K>,
    /// Time for each number in `held`.
    times: HashMap<u64, Instant>,
    number: u64,
    batch: u64,
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Shared<K, Out> {
    /// Starts the task that keeps the subscriptions equal to the topics with members.
    pub(super) fn follow_interest(self: &Arc<Self>) {
        let shared = Arc::downgrade(self);
        let interest = Arc::clone(&self.interest);
        self.inner.runtime.spawn(async move {
            let mut follower = Follower {
                buckets: HashMap::new(),
                lingering: BTreeMap::new(),
                times: HashMap::new(),
                number: 0,
                batch: 0,
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
        self.batch += 1;
        for key in dirty {
            if shared.topics.count(&key) > 0 {
                self.want(&shared, &key, &mut changes);
            } else {
                self.linger(&shared, key);
            }
        }
        self.end_lingering(&shared, &mut changes);
        if !changes.is_empty() {
            shared.inner.bus.subscribe(&changes);
        }
        if any || !changes.is_empty() {
            shared.interest.passed.store(self.batch, Release);
            shared.interest.changed.notify_waiters();
        }
        true
    }

    fn want<Out>(
        &mut self,
        shared: &Arc<Shared<K, Out>>,
        key: &K,
        changes: &mut Vec<(Subject, bool)>,
    ) {
        let bytes = key.key_bytes();
        if let Some(topic) = shared.interest.topic(&bytes) {
            let number = topic.lingering.swap(0, Relaxed);
            if let Some(end) = self.times.remove(&number) {
                self.lingering.remove(&(end, number));
            }
            return;
        }
        let subject = shared.subject(&bytes);
        let topic = Topic::new(key.clone(), &bytes, Arc::downgrade(shared), self.batch);
        lock(&shared.interest.held).insert(Held(Arc::new(topic)));
        if shared.buckets.is_some() {
            let topics = self.buckets.entry(subject.clone()).or_default();
            *topics += 1;
            if *topics > 1 {
                return;
            }
        }
        changes.push((subject, true));
    }

    fn linger<Out>(&mut self, shared: &Shared<K, Out>, key: K) {
        let Some(topic) = shared.interest.topic(&key.key_bytes()) else {
            return;
        };
        if topic.lingering.load(Relaxed) > 0 {
            return;
        }
        self.number += 1;
        topic.lingering.store(self.number, Relaxed);
        let end = Instant::now() + LINGER + LINGER_JITTER.mul_f64(fastrand::f64());
        self.times.insert(self.number, end);
        self.lingering.insert((end, self.number), key);
    }

    fn end_lingering<Out>(&mut self, shared: &Shared<K, Out>, changes: &mut Vec<(Subject, bool)>) {
        let now = Instant::now();
        let may_linger = MAY_LINGER.max(lock(&shared.interest.held).len() / 10);
        let mut busy = Vec::new();
        while let Some(first) = self.lingering.first_entry() {
            if first.key().0 > now && self.lingering.len() <= may_linger {
                break;
            }
            let Some(((_, number), key)) = self.lingering.pop_first() else {
                break;
            };
            self.times.remove(&number);
            let bytes = key.key_bytes();
            let mut held = lock(&shared.interest.held);
            let Some(Held(topic)) = held.get(&*bytes) else {
                continue;
            };
            // A member may have joined since, whose change waits for a later batch.
            if shared.topics.count(&key) > 0 {
                topic.lingering.store(0, Relaxed);
                continue;
            }
            // A member that joins later must not receive these messages behind later ones.
            if !topic.waiting.end() {
                busy.push((number, key.clone()));
                continue;
            }
            held.remove(&*bytes);
            drop(held);
            let subject = shared.subject(&bytes);
            if shared.buckets.is_some() {
                let Some(topics) = self.buckets.get_mut(&subject) else {
                    continue;
                };
                *topics -= 1;
                if *topics > 0 {
                    continue;
                }
                self.buckets.remove(&subject);
            }
            changes.push((subject, false));
        }
        for (number, key) in busy {
            self.times.insert(number, now + RETRY);
            self.lingering.insert((now + RETRY, number), key);
        }
        let mut held = lock(&shared.interest.held);
        if held.len() < held.capacity() / 8 {
            let len = held.len();
            held.shrink_to(2 * len);
        }
    }
}

impl<K: Key, Out> Drop for Shared<K, Out> {
    fn drop(&mut self) {
        let topics = self.interest.take();
        let subjects = topics.iter().map(|topic| self.subject(&topic.bytes));
        let changes: Vec<_> = subjects.map(|subject| (subject, false)).collect();
        self.inner.bus.subscribe(&changes);
        self.inner.counters.dropped_sets.add(&self.counters);
        // The task ends because the topics are gone.
        self.interest.wake();
    }
}

#[cfg(test)]
mod tests {
    use getty_core::{Connection, Session, driver};

    use super::*;
    use crate::{Cluster, form::Plain};

    #[tokio::test(start_paused = true)]
    async fn topic_with_members_keeps_its_subscription_while_its_change_waits() {
        const WAIT: Duration = Duration::from_secs(60);
        let cluster = Cluster::of("app").start();
        cluster.up().await;
        let rooms = cluster.topics::<u64, String>("rooms", Plain);
        let connection = Connection::new(());
        let (session, _driver): (Session<String>, _) = driver::pair(connection.handle().clone());
        for n in 0..2000 {
            rooms.join(n, &session);
        }
        for n in 0..2000 {
            assert!(rooms.subscribed(&n, WAIT).await);
        }
        let topic = |n: u64| rooms.shared.interest.topic(&n.key_bytes());
        let before: Vec<_> = (0..200).map(|n| topic(n).unwrap()).collect();
        for n in 0..200 {
            rooms.leave(&n, &session);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Those that return come behind others in the order of the set of changes, and the others
        // are more than may linger.
        for n in 0..200 {
            rooms.join(n, &session);
        }
        for n in 200..2000 {
            rooms.leave(&n, &session);
        }
        for n in 0..200 {
            assert!(rooms.subscribed(&n, WAIT).await);
        }
        tokio::time::sleep(WAIT).await;
        for (n, before) in (0..).zip(&before) {
            let after = topic(n).expect("the topic has a member");
            assert!(Arc::ptr_eq(before, &after), "{n}");
            assert_eq!(after.lingering.load(Relaxed), 0);
        }
        assert_eq!(rooms.shared.interest.len(), 200);
    }
}
