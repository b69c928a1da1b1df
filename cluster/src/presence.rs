//! Members of topics that are watched, on this node and on others.
//!
//! A watcher requests the members of a topic from all nodes. Each node answers with its list,
//! and again after changes, as long as the watcher renews its request. A list is complete, so
//! the next one repairs the loss of any before it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Member, NodeId,
    bus::PublishError,
    cards::{read_cards, size, write_cards},
    cluster::{Inner, MAX_KEY},
    frame::{HEADER, Kind},
    lock, random_id,
};

/// Longest time between two requests of a watcher.
const RENEW: Duration = Duration::from_secs(20);
/// Time after which a node forgets a watcher that has not renewed its request.
const LEASE: Duration = Duration::from_secs(65);
/// Shortest time between two lists of one topic after changes.
const PAUSE: Duration = Duration::from_millis(250);
/// Addition to it for each member, which bounds the cost of long lists.
const PAUSE_OF_EACH: Duration = Duration::from_millis(1);
/// Time between two removals of watchers that are gone.
const SWEEP: Duration = Duration::from_secs(5);
/// Maximum number of watchers that a node answers.
const MAX_WATCHERS: usize = 100_000;
/// Pause before a part of a list is published again because the queue of the bus is full.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Number of these pauses after which the list is given up.
const MAX_PAUSES: usize = 1000;
/// Longest name of a set, in bytes.
const MAX_SET: usize = 256;
/// Length of a part without its cards, in bytes.
const PART: usize = 19;

/// Change of the members of a topic; see [`ClusterTopics::watch`](crate::ClusterTopics::watch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A member has joined, on any node. The first events are of those that were there before.
    Joined(Member),
    /// A member has left, or its node has ended.
    Left(Member),
    /// The lists of all living nodes have arrived.
    Complete,
    /// Lists are missing: the bus is away, or a node has just come. Members whose node is not
    /// known to be dead stay.
    Incomplete,
}

/// Stream of members that come and go; see
/// [`ClusterTopics::watch`](crate::ClusterTopics::watch).
#[must_use = "it does nothing until `next` is called"]
pub struct Watch {
    inner: Weak<Inner>,
    id: u64,
    topic: Topic,
    lists: Arc<Mutex<Lists>>,
    /// Number of each member that the reader knows.
    known: BTreeMap<Member, usize>,
    was_complete: bool,
    events: VecDeque<WatchEvent>,
    task: AbortHandle,
}

/// A set of topics, and a key.
type Topic = (Arc<str>, Bytes);

/// Lists of a watcher, by node.
#[derive(Default)]
struct Lists {
    of_nodes: HashMap<NodeId, List>,
    has_changed: bool,
    waker: Option<Waker>,
}

/// Members of a topic on one node.
#[derive(Default)]
struct List {
    version: u64,
    cards: Vec<String>,
    /// Round in which it has arrived; see [`Watches::round`].
    round: u64,
    /// First parts of a newer list, with its version and their number.
    parts: Option<(u64, u16, Vec<String>)>,
}

/// Watchers of this node.
#[derive(Default)]
pub(crate) struct Watches {
    lists: Mutex<HashMap<u64, Arc<Mutex<Lists>>>>,
    /// Number of times that the bus has settled. Older lists may have missed changes.
    round: AtomicU64,
}

/// Topics that are watched, by this node or others.
#[derive(Default)]
pub(crate) struct Watched {
    topics: Mutex<Topics>,
    /// Number of these topics. A join takes no lock while it is 0.
    len: AtomicUsize,
    /// Version of the last list of any topic.
    version: AtomicU64,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Topics {
    by_key: HashMap<Topic, WatchedTopic>,
    watchers: usize,
    /// Topics that have changed, each once.
    changed: Vec<Topic>,
    /// Watchers that have requested a list.
    requests: Vec<(Topic, (NodeId, u64))>,
    /// Time at which watchers that are gone are removed.
    next_sweep: Option<Instant>,
    /// `true` while a task sends lists.
    has_task: bool,
}

#[derive(Default)]
struct WatchedTopic {
    /// Time at which each watcher is forgotten.
    watchers: HashMap<(NodeId, u64), Instant>,
    has_changed: bool,
    /// Time before which no list is sent.
    not_before: Option<Instant>,
}

/// Topics whose lists must be sent, with their watchers.
type Due = Vec<(Topic, Vec<(NodeId, u64)>)>;

/// A part of a list on the bus.
struct Part {
    id: u64,
    version: u64,
    number: u16,
    is_last: bool,
    cards: Vec<String>,
}

impl Watches {
    /// Lets all watchers look at nodes, state and lists again.
    pub(crate) fn wake(&self) {
        let watches: Vec<_> = lock(&self.lists).values().cloned().collect();
        for lists in watches {
            Lists::wake(&lists);
        }
    }

    /// Records that this node may have missed lists until now.
    pub(crate) fn restart(&self) {
        self.round.fetch_add(1, Relaxed);
    }

    /// Records that a node has ended.
    pub(crate) fn forget(&self, node: NodeId) {
        let watches: Vec<_> = lock(&self.lists).values().cloned().collect();
        for lists in watches {
            lock(&lists).of_nodes.remove(&node);
            Lists::wake(&lists);
        }
    }

    fn receive(&self, node: NodeId, part: Part) {
        let Some(lists) = lock(&self.lists).get(&part.id).cloned() else {
            return;
        };
        let round = self.round.load(Relaxed);
        let is_complete = lock(&lists)
            .of_nodes
            .entry(node)
            .or_default()
            .add(part, round);
        if is_complete {
            Lists::wake(&lists);
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        // The node has ended, which the streams report.
        self.wake();
    }
}

impl Lists {
    fn wake(lists: &Mutex<Self>) {
        let mut lists = lock(lists);
        lists.has_changed = true;
        let waker = lists.waker.take();
        drop(lists);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl List {
    /// Adds a part. Returns `true` if the list is complete with it.
    fn add(&mut self, part: Part, round: u64) -> bool {
        // Its parts arrive in order, or some are lost.
        let (version, number, cards) = match self.parts.take() {
            Some(parts) if parts.0 == part.version => parts,
            Some(parts) if parts.0 > part.version => {
                self.parts = Some(parts);
                return false;
            }
            _ => (part.version, 0, Vec::new()),
        };
        if part.number != number || version <= self.version {
            return false;
        }
        let mut cards = cards;
        cards.extend(part.cards);
        if !part.is_last {
            self.parts = Some((version, number.saturating_add(1), cards));
            return false;
        }
        *self = Self {
            version,
            cards,
            round,
            parts: None,
        };
        true
    }
}

impl Watched {
    /// Records that members of a topic may have changed.
    pub(crate) fn changed(&self, set: &Arc<str>, key: impl FnOnce() -> Bytes) {
        if self.len.load(SeqCst) == 0 {
            return;
        }
        let topic = (Arc::clone(set), key());
        if lock(&self.topics).change(&topic) {
            self.changed.notify_one();
        }
    }

    /// Records that watchers may have missed lists.
    pub(crate) fn all_changed(&self) {
        if self.len.load(SeqCst) == 0 {
            return;
        }
        let mut topics = lock(&self.topics);
        let keys: Vec<_> = topics.by_key.keys().cloned().collect();
        for topic in &keys {
            topics.change(topic);
        }
        self.changed.notify_one();
    }

    /// Removes the watchers of a node that has ended.
    pub(crate) fn forget(&self, node: NodeId) {
        self.retain(&mut lock(&self.topics), |(of, _), _| *of != node);
        self.changed.notify_one();
    }

    fn remove(&self, topic: &Topic, watcher: (NodeId, u64)) {
        let mut topics = lock(&self.topics);
        let Some(entry) = topics.by_key.get_mut(topic) else {
            return;
        };
        let was_known = entry.watchers.remove(&watcher).is_some();
        let is_last = entry.watchers.is_empty();
        topics.watchers -= usize::from(was_known);
        if is_last {
            topics.by_key.remove(topic);
            self.len.store(topics.by_key.len(), SeqCst);
            self.changed.notify_one();
        }
    }

    fn retain(&self, topics: &mut Topics, mut keeps: impl FnMut(&(NodeId, u64), Instant) -> bool) {
        let mut removed = 0;
        topics.by_key.retain(|_, topic| {
            let before = topic.watchers.len();
            topic.watchers.retain(|watcher, end| keeps(watcher, *end));
            removed += before - topic.watchers.len();
            !topic.watchers.is_empty()
        });
        topics.watchers -= removed;
        self.len.store(topics.by_key.len(), SeqCst);
    }

    /// Adds a watcher. Returns `false` if there are too many.
    fn add(&self, topic: &Topic, watcher: (NodeId, u64)) -> bool {
        let mut topics = lock(&self.topics);
        let entry = topics.by_key.get(topic);
        let is_known = entry.is_some_and(|topic| topic.watchers.contains_key(&watcher));
        if !is_known && topics.watchers >= MAX_WATCHERS {
            return false;
        }
        topics.watchers += usize::from(!is_known);
        let entry = topics.by_key.entry(topic.clone()).or_default();
        entry.watchers.insert(watcher, Instant::now() + LEASE);
        self.len.store(topics.by_key.len(), SeqCst);
        true
    }

    /// Adds the request of a watcher. Returns `false` if there are too many.
    fn request(&self, topic: &Topic, watcher: (NodeId, u64)) -> bool {
        let mut topics = lock(&self.topics);
        if topics.requests.len() >= MAX_WATCHERS {
            return false;
        }
        topics.requests.push((topic.clone(), watcher));
        self.changed.notify_one();
        true
    }

    /// Returns topics whose lists must be sent, with their watchers, and the time of the next
    /// call. Returns `None` once nothing is watched.
    fn due(&self) -> Option<(Due, Instant)> {
        let now = Instant::now();
        let mut topics = lock(&self.topics);
        if topics.next_sweep.is_none_or(|time| time <= now) {
            self.retain(&mut topics, |_, end| end > now);
            topics.next_sweep = Some(now + SWEEP);
        }
        if topics.by_key.is_empty() {
            *topics = Topics::default();
            return None;
        }
        let Topics {
            by_key,
            changed,
            requests,
            next_sweep,
            ..
        } = &mut *topics;
        let mut next = next_sweep.unwrap_or(now);
        let mut due = Vec::new();
        for (key, watcher) in std::mem::take(requests) {
            let topic = by_key.get(&key);
            if topic.is_some_and(|topic| topic.watchers.contains_key(&watcher)) {
                due.push((key, vec![watcher]));
            }
        }
        changed.retain(|key| {
            let Some(topic) = by_key.get_mut(key) else {
                return false;
            };
            if let Some(time) = topic.not_before.filter(|time| *time > now) {
                next = next.min(time);
                return true;
            }
            topic.has_changed = false;
            due.push((key.clone(), topic.watchers.keys().copied().collect()));
            false
        });
        Some((due, next))
    }

    /// Records that a list with this number of members was sent.
    fn sent(&self, topic: &Topic, members: usize) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        if let Some(topic) = lock(&self.topics).by_key.get_mut(topic) {
            let pause = PAUSE + PAUSE_OF_EACH.saturating_mul(members);
            topic.not_before = Some(Instant::now() + pause);
        }
    }
}

impl Topics {
    /// Returns `true` if it is the first change of a watched topic since its last list.
    fn change(&mut self, topic: &Topic) -> bool {
        let entry = self.by_key.get_mut(topic);
        let is_first = entry.is_some_and(|entry| !std::mem::replace(&mut entry.has_changed, true));
        if is_first {
            self.changed.push(topic.clone());
        }
        is_first
    }
}

impl Inner {
    /// Begins to watch a topic.
    pub(crate) fn watch(self: &Arc<Self>, set: &Arc<str>, key: &[u8]) -> Watch {
        let id = random_id();
        let topic = (Arc::clone(set), Bytes::copy_from_slice(key));
        let lists = Arc::new(Mutex::new(Lists {
            has_changed: true,
            ..Lists::default()
        }));
        lock(&self.watches.lists).insert(id, Arc::clone(&lists));
        let renew = renew(Arc::downgrade(self), id, topic.clone());
        Watch {
            inner: Arc::downgrade(self),
            id,
            topic,
            lists,
            known: BTreeMap::new(),
            was_complete: false,
            events: VecDeque::new(),
            task: self.runtime.spawn(renew).abort_handle(),
        }
    }

    /// Handles the request of a watcher.
    pub(crate) fn watch_requested(self: &Arc<Self>, node: NodeId, id: u64, topic: &Topic) {
        let (set, key) = topic;
        if set.len() > MAX_SET || (node != self.id && key.len() > MAX_KEY) {
            self.counters.invalid.add(1);
            return;
        }
        let watcher = (node, id);
        if !self.watched.add(topic, watcher) || !self.watched.request(topic, watcher) {
            self.counters.unread.add(1);
            return;
        }
        let mut topics = lock(&self.watched.topics);
        if !std::mem::replace(&mut topics.has_task, true) {
            let lists = send_lists(Arc::downgrade(self), Arc::clone(&self.watched.changed));
            self.runtime.spawn(lists);
        }
    }

    pub(crate) fn unwatch(&self, node: NodeId, id: u64, topic: &Topic) {
        self.watched.remove(topic, (node, id));
    }

    /// Handles a part of a list. Returns `false` if it is not readable.
    pub(crate) fn list_received(&self, node: NodeId, payload: Bytes) -> bool {
        let part = Part::read(payload);
        part.is_some_and(|part| {
            self.watches.receive(node, part);
            true
        })
    }

    /// Returns the cards of the members on this node, and the version of this list.
    fn list(&self, topic: &Topic) -> (u64, Vec<String>) {
        // Before the members are read, so that a later version has later members or is followed by
        // one that has.
        let version = self.watched.version.fetch_add(1, SeqCst) + 1;
        let (set, key) = topic;
        // Keys are code of the application.
        let cards = AssertUnwindSafe(|| self.set(set).map(|set| set.cards(key)));
        let cards = catch_unwind(cards).ok().flatten();
        (version, cards.unwrap_or_default())
    }

    fn request(&self, to: Option<NodeId>, kind: Kind, id: u64, topic: &Topic) {
        if topic.1.len() > MAX_KEY {
            return;
        }
        let mut payload = BytesMut::new();
        payload.put_u64(id);
        payload.put_slice(topic.0.as_bytes());
        let (key, payload) = (topic.1.clone(), payload.freeze());
        match to {
            None => {
                self.publish_to_all(kind, key, payload);
            }
            Some(node) => self.publish_key_to(node, kind, key, payload),
        }
    }
}

/// Sends lists on request and after changes, until nothing is watched.
async fn send_lists(inner: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let due = inner.upgrade().and_then(|inner| inner.watched.due());
        let Some((due, next)) = due else { return };
        for (topic, watchers) in due {
            let Some(members) = send_list(&inner, &topic, &watchers).await else {
                return;
            };
            if let Some(inner) = inner.upgrade() {
                inner.watched.sent(&topic, members);
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Sends the list of this node to watchers. Returns the number of its members, or `None` once
/// the node has ended.
async fn send_list(
    inner: &Weak<Inner>,
    topic: &Topic,
    watchers: &[(NodeId, u64)],
) -> Option<usize> {
    let (version, cards) = inner.upgrade()?.list(topic);
    for &(node, id) in watchers {
        let parts = {
            let inner = inner.upgrade()?;
            if node == inner.id {
                let part = Part {
                    id,
                    version,
                    number: 0,
                    is_last: true,
                    cards: cards.clone(),
                };
                inner.watches.receive(node, part);
                continue;
            }
            Part::write(id, version, &cards, inner.max_frame.saturating_sub(HEADER))
        };
        for part in parts {
            // The rest of a list with a lost part would not be read. The next list repairs it.
            if !publish_part(inner, node, part).await {
                break;
            }
        }
    }
    Some(cards.len())
}

/// Publishes a part of a list, after a pause while the queue of the bus is full. Returns `false`
/// if the bus does not take it.
async fn publish_part(inner: &Weak<Inner>, node: NodeId, part: Bytes) -> bool {
    for _ in 0..MAX_PAUSES {
        let Some(inner) = inner.upgrade() else {
            return false;
        };
        match inner.publish_to(node, Kind::List, part.clone()) {
            Err(PublishError::Full) => {}
            result => return result.is_ok(),
        }
        drop(inner);
        sleep(FULL_PAUSE).await;
    }
    false
}

/// Requests the lists of all nodes, again from time to time, and of each node that comes.
async fn renew(inner: Weak<Inner>, id: u64, topic: Topic) {
    let Some((mut nodes, mut states)) = inner
        .upgrade()
        .map(|inner| (inner.nodes.changes(), inner.states()))
    else {
        return;
    };
    loop {
        let mut known: HashSet<NodeId>;
        {
            let Some(inner) = inner.upgrade() else { return };
            states.mark_unchanged();
            nodes.mark_unchanged();
            known = inner.nodes.list().iter().map(|node| node.id).collect();
            inner.watch_requested(inner.id, id, &topic);
            inner.request(None, Kind::Watch, id, &topic);
            // The watch may have been dropped before these requests.
            if !lock(&inner.watches.lists).contains_key(&id) {
                inner.unwatch(inner.id, id, &topic);
                inner.request(None, Kind::Unwatch, id, &topic);
                return;
            }
        }
        let time = sleep(RENEW.mul_f64(0.75 + fastrand::f64() / 4.0));
        let mut time = std::pin::pin!(time);
        loop {
            tokio::select! {
                () = &mut time => break,
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if states.borrow_and_update().has_settled() {
                        break;
                    }
                }
                changed = nodes.changed() => {
                    let Some(inner) = inner.upgrade().filter(|_| changed.is_ok()) else {
                        return;
                    };
                    let now: HashSet<_> = inner.nodes.list().iter().map(|node| node.id).collect();
                    for node in now.difference(&known) {
                        inner.request(Some(*node), Kind::Watch, id, &topic);
                    }
                    known = now;
                }
            }
        }
    }
}

impl Part {
    /// Writes a list in parts of at most `max` bytes each.
    fn write(id: u64, version: u64, cards: &[String], max: usize) -> Vec<Bytes> {
        // No frame can have a longer card, and the others must arrive.
        let fitting = cards.iter().filter(|card| PART + size(card) <= max);
        write_cards(fitting, max, |part, number| {
            part.put_u64(id);
            part.put_u64(version);
            part.put_u16(number);
        })
    }

    fn read(mut bytes: Bytes) -> Option<Self> {
        let id = bytes.try_get_u64().ok()?;
        let version = bytes.try_get_u64().ok()?;
        let number = bytes.try_get_u16().ok()?;
        let (is_last, cards) = read_cards(bytes)?;
        Some(Self {
            id,
            version,
            number,
            is_last,
            cards,
        })
    }
}

impl Watch {
    /// Waits for the next event. Returns `None` once this node has ended.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        StreamExt::next(self).await
    }

    /// Queues the differences between the members that the reader knows and the current ones.
    fn compare(&mut self, inner: &Inner) {
        let nodes: HashSet<_> = inner.nodes.list().iter().map(|node| node.id).collect();
        let round = inner.watches.round.load(Relaxed);
        let mut lists = lock(&self.lists);
        // The list of a node whose beats come later is requested again with the first.
        let is_there = |node: &NodeId| *node == inner.id || nodes.contains(node);
        lists.of_nodes.retain(|node, _| is_there(node));
        let mut current: BTreeMap<Member, usize> = BTreeMap::new();
        for (&node, list) in &lists.of_nodes {
            for card in &list.cards {
                let card = card.clone();
                *current.entry(Member { card, node }).or_default() += 1;
            }
        }
        let is_known = |node: &NodeId| {
            let list = lists.of_nodes.get(node);
            list.is_some_and(|list| list.version > 0 && list.round == round)
        };
        let mut all = nodes.iter().chain([&inner.id]);
        let is_complete = inner.has_settled_now() && all.all(is_known);
        drop(lists);
        if self.was_complete && !is_complete {
            self.events.push_back(WatchEvent::Incomplete);
        }
        let fewer = |one: &BTreeMap<Member, usize>, other: &BTreeMap<Member, usize>| {
            let mut members = Vec::new();
            for (member, count) in one {
                let there = other.get(member).copied().unwrap_or_default();
                let more = count.saturating_sub(there);
                members.extend(std::iter::repeat_n(member, more).cloned());
            }
            members
        };
        let left = fewer(&self.known, &current);
        self.events.extend(left.into_iter().map(WatchEvent::Left));
        let joined = fewer(&current, &self.known);
        self.events
            .extend(joined.into_iter().map(WatchEvent::Joined));
        if is_complete && !self.was_complete {
            self.events.push_back(WatchEvent::Complete);
        }
        self.known = current;
        self.was_complete = is_complete;
    }
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            let mut lists = lock(&self.lists);
            if !std::mem::take(&mut lists.has_changed) {
                lists.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(lists);
            let Some(inner) = self.inner.upgrade() else {
                lock(&self.lists).has_changed = true;
                return Poll::Ready(None);
            };
            self.compare(&inner);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        lock(&inner.watches.lists).remove(&self.id);
        inner.unwatch(inner.id, self.id, &self.topic);
        inner.request(None, Kind::Unwatch, self.id, &self.topic);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("known", &self.known.len())
            .field("is_complete", &self.was_complete)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(version: u64, number: u16, is_last: bool, card: &str) -> Part {
        Part {
            id: 7,
            version,
            number,
            is_last,
            cards: vec![card.to_owned()],
        }
    }

    #[test]
    fn cards_are_the_same_after_parts_of_bounded_length() {
        for len in [0, 1, 100] {
            let cards: Vec<_> = (0..len).map(|n| format!("card {n}")).collect();
            let mut too_long = cards.clone();
            too_long.insert(len / 2, "x".repeat(100));
            let parts = Part::write(7, 3, &too_long, 100);
            assert!(parts.iter().all(|part| part.len() <= 100));
            assert_eq!(parts.len() > 10, len == 100);
            let mut list = List::default();
            let (last, first) = parts.split_last().unwrap();
            for part in first {
                assert!(!list.add(Part::read(part.clone()).unwrap(), 1));
            }
            assert!(list.add(Part::read(last.clone()).unwrap(), 1));
            assert_eq!((list.cards, list.version, list.round), (cards, 3, 1));
        }
    }

    #[test]
    fn list_with_a_lost_part_is_not_used_and_an_older_one_neither() {
        let mut list = List::default();
        assert!(list.add(part(2, 0, true, "two"), 0));
        // the part in the middle is lost, and then the first one
        assert!(!list.add(part(3, 0, false, "three"), 0));
        assert!(!list.add(part(3, 2, true, "three"), 0));
        assert!(!list.add(part(4, 1, true, "four"), 0));
        assert!(!list.add(part(1, 0, true, "one"), 0));
        assert!(!list.add(part(2, 0, true, "two again"), 0));
        assert_eq!((list.version, &*list.cards), (2, &["two".to_owned()][..]));
        // parts of an older list between those of a newer one
        assert!(!list.add(part(6, 0, false, "six"), 0));
        assert!(!list.add(part(5, 0, true, "five"), 0));
        assert!(list.add(part(6, 1, true, "six"), 0));
        assert_eq!((list.version, list.cards.len()), (6, 2));
    }

    #[test]
    fn watchers_are_bounded_and_the_last_one_ends_its_topic() {
        let watched = Watched::default();
        let topic = |n: usize| ("rooms".into(), Bytes::from(n.to_string()));
        for n in 0..MAX_WATCHERS {
            assert!(watched.add(&topic(n % 10), (NodeId(1), n as u64)));
        }
        let (known, other) = ((NodeId(1), 0), (NodeId(2), 0));
        assert!(watched.add(&topic(0), known));
        assert!(!watched.add(&topic(0), other));
        watched.remove(&topic(3), known);
        assert!(!watched.add(&topic(0), other));
        watched.remove(&topic(0), known);
        assert!(watched.add(&topic(0), other));
        watched.forget(NodeId(1));
        assert_eq!(watched.len.load(SeqCst), 1);
        watched.remove(&topic(0), other);
        assert_eq!(watched.len.load(SeqCst), 0);
        assert_eq!(lock(&watched.topics).watchers, 0);
        assert!(watched.due().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_part_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(part) = Part::read(bytes.clone().into()) {
                let cards: usize = part.cards.iter().map(|card| 4 + card.len()).sum();
                prop_assert_eq!(bytes.len(), PART + cards);
            } else {
                prop_assert!(bytes.len() != PART);
            }
        }
    }
}
