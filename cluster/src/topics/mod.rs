//! Topics whose members are connected to any node.

mod builder;
mod interest;
mod seen;
mod sequence;
mod topic;

use std::{
    borrow::Borrow,
    cell::Cell,
    collections::HashMap,
    error::Error,
    fmt,
    hash::Hash,
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty_core::{CloseReason, ConnectionHandle, Session};
use getty_layers::{Topics, group::Report};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::BoxError;

pub use self::builder::TopicsBuilder;
pub(crate) use self::seen::Seen;
use self::{interest::Interest, sequence::Sequences};
use crate::{
    Answers, Cluster, Key, KeyBytes, Member, Node, NodeId, Subject, TopicsSnapshot, Watch,
    bus::PublishError,
    cluster::{Inner, MAX_KEY, Set, close_payload},
    counters::TopicCounters,
    dispatch::{Dispatch, Message},
    form::Form,
    frame::{HEADER, Header, Kind},
    lock,
    presence::Watched,
    random_id,
    subject::stable_hash,
};

/// Number of copies of a close that are published, because each may be lost.
const CLOSE_COPIES: u32 = 3;
/// Time between two copies.
const CLOSE_INTERVAL: Duration = Duration::from_millis(1500);

/// Groups of sessions by key, on all nodes of a [`Cluster`]. Clones share the topics.
///
/// A topic exists on a node while it has members there. Its node then receives the messages of
/// other nodes. Members on the same node get a message directly; see the
/// [promises](crate#promises).
///
/// With the id of a user as its key, a topic contains all connections of the user: a broadcast
/// is a push to the user, and [`close`](Self::close) ends all of them. No directory is needed.
///
/// Scope: cluster.
pub struct ClusterTopics<K: Key, Out> {
    shared: Arc<Shared<K, Out>>,
    cluster: Cluster,
}

/// Function that is called with each gap.
type GapHook<K> = Box<dyn Fn(&K, Gap) + Send + Sync>;
/// Cards of the sessions of a set.
struct Cards<K: Key> {
    watched: Arc<Watched>,
    set: Arc<str>,
    /// By session and topic.
    by_session: Mutex<HashMap<u64, HashMap<K, String>>>,
}

impl<K: Key> Cards<K> {
    /// Records that cards or members of a topic may have changed.
    fn changed<Q: KeyBytes + ?Sized>(&self, key: &Q) {
        let bytes = || Bytes::copy_from_slice(&key.key_bytes());
        self.watched.changed(&self.set, bytes);
    }

    fn remove(&self, session: u64) {
        let removed = lock(&self.by_session).remove(&session);
        for key in removed.iter().flat_map(HashMap::keys) {
            self.changed(key);
        }
    }
}

impl<K: Key> Drop for Cards<K> {
    fn drop(&mut self) {
        // The set has ended, and with it all its lists.
        self.watched.all_changed();
    }
}

struct Shared<K: Key, Out> {
    inner: Arc<Inner>,
    /// Name of the set, as a token.
    name: Arc<str>,
    topics: Topics<K, Out>,
    form: Box<dyn Form<Out>>,
    gap_hook: Option<GapHook<K>>,
    counters: TopicCounters,
    sequences: Sequences,
    cards: Arc<Cards<K>>,
    interest: Arc<Interest<K, Out>>,
    buckets: Option<u32>,
    max_topics: usize,
}

/// Messages of another node to a topic that did not arrive; see
/// [`TopicsBuilder::with_gap_hook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The node that has published them.
    pub node: NodeId,
    /// Their number.
    pub missed: u64,
}

/// Outcome of a broadcast to the members of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// Members on this node.
    pub local: Report,
    /// Result for all other nodes together.
    pub bus: BusResult,
}

/// Result of a broadcast for the other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BusResult {
    /// The queue to the bus has taken the message. It may still be lost.
    Queued,
    /// The queue to the bus is full, or the topic has used its share. No other node gets the
    /// message.
    Full,
    /// The bus is not connected. No other node gets the message.
    Away,
    /// The server of the bus permits no message of this length. No other node gets the message.
    TooLarge,
}

/// Message that cannot be sent. No member gets it, on any node.
#[derive(Debug)]
pub struct Unsendable<M> {
    /// The message.
    pub message: M,
    source: BoxError,
}

impl<M> fmt::Display for Unsendable<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message cannot be sent to other nodes")
    }
}

impl<M: fmt::Debug> Error for Unsendable<M> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl<K: Key, Out: Clone + Send + Sync + 'static> ClusterTopics<K, Out> {
    /// Adds `session` to a topic, until it leaves or closes; see
    /// [`Topics::join`](getty_layers::Topics::join). Returns `false` if nothing has changed, or if
    /// this node has reached its [maximum](TopicsBuilder::with_max_topics) of topics.
    ///
    /// Messages of other nodes arrive once the bus knows the subscription, usually within
    /// milliseconds; see [`subscribed`](Self::subscribed).
    pub fn join(&self, key: K, session: &Session<Out>) -> bool {
        self.has_room(&key) && self.shared.topics.join(key, session)
    }

    /// Adds `session` to a topic with a card, such as a name, that [`ask`](Self::ask) and
    /// [`watch`](Self::watch) return on every node. If it is a member already, its card is
    /// replaced, and the result is `false`.
    pub fn join_as(&self, key: K, session: &Session<Out>, card: impl Into<String>) -> bool {
        if !self.has_room(&key) {
            return false;
        }
        let mut cards = lock(&self.shared.cards.by_session);
        let is_first = !cards.contains_key(&session.id());
        cards
            .entry(session.id())
            .or_default()
            .insert(key.clone(), card.into());
        drop(cards);
        if is_first {
            let (cards, id) = (Arc::downgrade(&self.shared.cards), session.id());
            let name = Arc::clone(&self.shared.name);
            // A closed session calls it at once.
            session.add_close_callback("getty-cluster cards", name, move |_| {
                if let Some(cards) = cards.upgrade() {
                    cards.remove(id);
                }
            });
        }
        let joined = key.clone();
        let has_joined = self.shared.topics.join(key, session);
        self.shared.cards.changed(&joined);
        has_joined
    }

    fn has_room(&self, key: &K) -> bool {
        let Shared {
            topics, max_topics, ..
        } = &*self.shared;
        // The first check is the cheap one, for all but new topics.
        topics.count(key) > 0 || topics.len() < *max_topics
    }

    /// Removes `session` from a topic. Returns `false` if it was not a member.
    pub fn leave<Q>(&self, key: &Q, session: &ConnectionHandle) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut cards = lock(&self.shared.cards.by_session);
        let removed = cards
            .get_mut(&session.id())
            .and_then(|cards| cards.remove_entry(key));
        drop(cards);
        let has_left = self.shared.topics.leave(key, session);
        if let Some((key, _)) = removed {
            self.shared.cards.changed(&key);
        }
        has_left
    }

    /// Removes `session` from all its topics and returns their number. A close does this
    /// automatically.
    pub fn leave_all(&self, session: &ConnectionHandle) -> usize {
        let mut cards = lock(&self.shared.cards.by_session);
        let removed = cards.get_mut(&session.id()).map(mem::take);
        drop(cards);
        let left = self.shared.topics.leave_all(session);
        for key in removed.iter().flat_map(HashMap::keys) {
            self.shared.cards.changed(key);
        }
        left
    }

    /// Sends `message` to all members of a topic, on all nodes, without waiting.
    ///
    /// Members on this node get it as from [`Topics::broadcast`](getty_layers::Topics::broadcast).
    /// For all others it is put into the queue to the bus. [`Sent`] has both results. A refused
    /// message is not repeated: members on other nodes then see a gap.
    ///
    /// # Errors
    ///
    /// Returns the message if its form could not be written, is longer than the
    /// [maximum](crate::ClusterBuilder::with_max_frame), or if the key has more than 4,096 bytes.
    /// No member gets it.
    pub fn broadcast<Q>(&self, key: &Q, message: Out) -> Result<Sent, Unsendable<Out>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + KeyBytes + ?Sized,
    {
        self.send(key, message, |topics, message| {
            topics.broadcast(key, message)
        })
    }

    /// Sends `message` to all members of a topic except `sender`, which need not be a member; see
    /// [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    ///
    /// See [`broadcast`](Self::broadcast).
    pub fn broadcast_except<Q>(
        &self,
        key: &Q,
        sender: &ConnectionHandle,
        message: Out,
    ) -> Result<Sent, Unsendable<Out>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + KeyBytes + ?Sized,
    {
        self.send(key, message, |topics, message| {
            topics.broadcast_except(key, sender, message)
        })
    }

    fn send<Q>(
        &self,
        key: &Q,
        message: Out,
        local: impl FnOnce(&Topics<K, Out>, Out) -> Report,
    ) -> Result<Sent, Unsendable<Out>>
    where
        Q: KeyBytes + ?Sized,
    {
        let shared = &*self.shared;
        let key = key.key_bytes();
        let mut buffer = Buffer::take();
        if let Err(source) = shared.frame(&key, &message, &mut buffer.0) {
            return Err(Unsendable { message, source });
        }
        let local = local(&shared.topics, message);
        let subject = || shared.subject(&key);
        // Under the lock of the sequence, so that the bus gets the numbers in their order.
        let bus = shared
            .sequences
            .next(&key, subject, |subject, sequence, is_fresh| {
                let mut frame = buffer.next();
                Header::set_numbers(&mut frame, shared.inner.next_number(), sequence, is_fresh);
                shared.inner.bus.publish(subject, frame.freeze())
            });
        let counters = &shared.counters;
        let bus = match bus {
            Ok(()) => {
                counters.published.add(1);
                BusResult::Queued
            }
            Err(error) => {
                counters.refused(error);
                match error {
                    PublishError::Away => BusResult::Away,
                    PublishError::Full => BusResult::Full,
                    PublishError::TooLarge => BusResult::TooLarge,
                }
            }
        };
        Ok(Sent { local, bus })
    }

    /// Closes all members of a topic, on all nodes, and returns their number on this node.
    ///
    /// Other nodes are notified three times within 3 s. So a member on a node that has missed the
    /// first copy is closed by the next, and so is one that has joined there in between. The
    /// reasons `Local`, `Shutdown`, `TakenOver`, `LifetimeExpired`, `IdleTimeout`, `Refused`,
    /// `Protocol` and `Application` are the same there, and any other is `Local`; see
    /// [`with_close_reasons`](crate::ClusterBuilder::with_close_reasons).
    pub fn close<Q>(&self, key: &Q, reason: impl Into<CloseReason>) -> usize
    where
        K: Borrow<Q>,
        Q: Eq + Hash + KeyBytes + ?Sized,
    {
        let reason = reason.into();
        let inner = Arc::clone(&self.shared.inner);
        let key_bytes = Bytes::copy_from_slice(&key.key_bytes());
        if key_bytes.len() <= MAX_KEY {
            let payload = close_payload(random_id(), &self.shared.name, &reason);
            inner.publish_to_all(Kind::CloseTopic, key_bytes.clone(), payload.clone());
            self.shared.inner.runtime.spawn(async move {
                for _ in 1..CLOSE_COPIES {
                    sleep(CLOSE_INTERVAL).await;
                    inner.publish_to_all(Kind::CloseTopic, key_bytes.clone(), payload.clone());
                }
            });
        }
        let members = self.shared.topics.members(key);
        for member in &members {
            member.close_with(reason.clone());
        }
        members.len()
    }

    /// Asks all nodes for the cards of the members of a topic. It waits until all living nodes have
    /// answered, at most for `time`.
    ///
    /// Presence is not stored anywhere, so no entry is stale. [`Answers::missing`] names the nodes
    /// that have not answered. After a crash of a node, answers are late for up to 10 s because
    /// its absence is not known yet. A question costs an answer of each node: it suits some
    /// hundred nodes and some hundred questions a second.
    ///
    /// # Cancel safety
    ///
    /// The question is forgotten if the future is dropped.
    pub async fn ask<Q>(&self, key: &Q, time: Duration) -> Answers
    where
        K: Borrow<Q>,
        Q: Eq + Hash + KeyBytes + ?Sized,
    {
        let inner = &self.shared.inner;
        let key_bytes = key.key_bytes();
        let cards = self.shared.cards(&key_bytes);
        let node = inner.id;
        let mut members: Vec<_> = cards
            .into_iter()
            .map(|card| Member { card, node })
            .collect();
        if key_bytes.len() > MAX_KEY {
            return Answers {
                members,
                missing: Vec::new(),
            };
        }
        let id = random_id();
        let nodes = inner.nodes.list();
        let done = inner.questions.begin(id, nodes.iter().map(|node| node.id));
        let question = EndOnDrop(inner, id);
        let mut payload = BytesMut::new();
        payload.put_u64(id);
        payload.put_slice(self.shared.name.as_bytes());
        let key_bytes = Bytes::copy_from_slice(&key_bytes);
        let deadline = Instant::now() + time;
        if inner.publish_to_all(Kind::Ask, key_bytes, payload.freeze()) {
            // An error is the deadline. The answers until then are used.
            let _ = timeout_at(deadline, done).await;
        }
        let (others, waiting) = inner.questions.end(id);
        drop(question);
        members.extend(others);
        let missing = nodes
            .into_iter()
            .filter(|Node { id, .. }| waiting.contains(id))
            .collect();
        Answers { members, missing }
    }

    /// Watches the members of a topic that have joined [with a card](Self::join_as), on all
    /// nodes: those that are there, and then each that comes or goes.
    ///
    /// Each node sends its list, and sends it again within 250 ms of a change, plus 1 ms for each
    /// of its members. [`Complete`](crate::WatchEvent::Complete) follows
    /// the lists of all nodes. The stream compares the lists with what the reader knows:
    ///
    /// - A member that comes and goes between two lists, or between two calls of
    ///   [`Watch::next`], has no event. So a slow reader uses no more memory than two lists.
    /// - Each member that stays is reported, and so is the end of each that was reported. A lost
    ///   list is repaired within 20 s. Members of a node that has crashed leave within 10 s.
    /// - While the bus is away the members of other nodes stay.
    ///   [`Incomplete`](crate::WatchEvent::Incomplete) reports that, and `Complete` follows the
    ///   new lists.
    /// - Several members with equal cards on one node have an event each.
    ///
    /// A watch costs a request to all nodes every 15 to 20 s, and a list of each node after it.
    /// Joins read one atomic number while no topic is watched. A node answers 100,000 watchers
    /// at most. A card that is longer than a frame is in no list. The name of the set may have 256
    /// bytes and the key 4,096. A watch beyond a limit reports members of this node at the most,
    /// and never [`Complete`](crate::WatchEvent::Complete).
    ///
    /// ```
    /// use getty_cluster::{Cluster, ClusterTopics, WatchEvent, form::Plain};
    /// use getty_core::{Connection, driver};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cluster = Cluster::of("chat").start();
    /// let rooms: ClusterTopics<String, String> = cluster.topics("rooms", Plain);
    /// let connection = Connection::new(());
    /// let (session, _) = driver::pair(connection.handle().clone());
    /// rooms.join_as("tea".to_owned(), &session, "ada");
    ///
    /// let mut watch = rooms.watch("tea");
    /// let Some(WatchEvent::Joined(member)) = watch.next().await else {
    ///     panic!("a member is there");
    /// };
    /// assert_eq!(member.card, "ada");
    /// rooms.leave("tea", &session);
    /// while watch.next().await != Some(WatchEvent::Left(member.clone())) {}
    /// # }
    /// ```
    pub fn watch<Q>(&self, key: &Q) -> Watch
    where
        K: Borrow<Q>,
        Q: KeyBytes + ?Sized,
    {
        let Shared { inner, name, .. } = &*self.shared;
        inner.watch(name, &key.key_bytes())
    }

    /// Waits until messages of other nodes to this topic arrive here, at most for `time`. Returns
    /// `false` if they do not: the bus is away or slow, or the topic has no member on this node.
    ///
    /// [`join`](Self::join) does not need it. It is for a member that must not miss a message that
    /// another node publishes from now on.
    pub async fn subscribed<Q>(&self, key: &Q, time: Duration) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + KeyBytes + ?Sized,
    {
        let subscribed = async {
            self.shared.interest.held(key).await;
            self.shared.inner.settled().await;
            let subject = self.shared.subject(&key.key_bytes());
            self.shared.inner.bus.subscribed_to(&subject).await;
        };
        timeout(time, subscribed).await.is_ok()
    }

    /// Returns the subject of the messages of a topic on the bus. It shows the
    /// [shard](Subject::shard) of the topic. Topics of one [bucket](TopicsBuilder::with_buckets)
    /// have the same.
    #[must_use]
    pub fn subject<Q>(&self, key: &Q) -> Subject
    where
        K: Borrow<Q>,
        Q: KeyBytes + ?Sized,
    {
        self.shared.subject(&key.key_bytes())
    }

    /// Returns the counters of these topics on this node.
    #[must_use]
    pub fn snapshot(&self) -> TopicsSnapshot {
        Set::snapshot(&*self.shared)
    }

    /// Returns the topics of this node alone: their broadcasts reach no other node. A session with
    /// a card must leave by [`leave`](Self::leave), which removes the card.
    #[must_use]
    pub fn local(&self) -> &Topics<K, Out> {
        &self.shared.topics
    }
}

/// Forgets a question.
struct EndOnDrop<'a>(&'a Inner, u64);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.questions.end(self.1);
    }
}

impl<K: Key, Out: 'static> Shared<K, Out> {
    /// Writes a frame with the message, whose numbers are not set.
    fn frame(&self, key: &[u8], message: &Out, to: &mut BytesMut) -> Result<(), BoxError> {
        if key.len() > MAX_KEY {
            let len = key.len();
            return Err(format!("the key has {len} bytes, the maximum is {MAX_KEY}").into());
        }
        to.reserve(HEADER + key.len() + 128);
        let header = Header {
            kind: Kind::Message,
            fresh: false,
            origin: self.inner.id,
            number: 0,
            sequence: 0,
        };
        header.write(key, to);
        self.form.write(message, to)?;
        let (len, max) = (to.len(), self.inner.max_frame);
        if len > max {
            return Err(format!("the frame has {len} bytes, the maximum is {max}").into());
        }
        Ok(())
    }
}

/// Empty memory for the frames of this thread. Frames are parts of one block, so most need no
/// allocation.
struct Buffer(BytesMut);

impl Buffer {
    /// Length of a block, in bytes. A frame that waits keeps a block.
    const BLOCK: usize = 4096;

    fn take() -> Self {
        // It fails at the end of a thread. A form that broadcasts itself finds an empty buffer.
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
        if buffer.capacity() == 0 {
            buffer.reserve(Self::BLOCK);
        }
        Self(buffer)
    }
}

impl Buffer {
    /// Returns what was written, and keeps the rest of the block.
    fn next(&mut self) -> BytesMut {
        if self.0.len() > Self::BLOCK {
            // Such a frame has its whole block.
            return mem::take(&mut self.0);
        }
        self.0.split()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Of a form that has failed.
        self.0.clear();
        let buffer = mem::take(&mut self.0);
        if buffer.capacity() <= 2 * Self::BLOCK {
            // At the end of a thread it is dropped.
            let _ = BUFFER.try_with(|cell| cell.set(buffer));
        }
    }
}

thread_local! {
    static BUFFER: Cell<BytesMut> = Cell::default();
}

impl<K: Key, Out> Shared<K, Out> {
    fn subject(&self, key: &[u8]) -> Subject {
        let namespace = &self.inner.namespace;
        match self.buckets {
            Some(buckets) => Subject::bucket(namespace, &self.name, bucket(key, buckets)),
            None => Subject::topic(namespace, &self.name, key),
        }
    }
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Shared<K, Out> {
    /// Passes a message of another node to the members of a topic. Returns `false` if the message
    /// is not readable. `missed` is the number of messages before it that have not arrived.
    fn receive(&self, key: &K, origin: NodeId, missed: u64, form: Bytes) -> bool {
        let counters = &self.counters;
        if missed > 0 {
            counters.lost.add(missed);
            if let Some(hook) = &self.gap_hook {
                let node = origin;
                hook(key, Gap { node, missed });
            }
            // The notice comes with the next broadcast. As a message it could be dropped for a slow
            // member, and count as one.
            self.topics.count_missed(key, missed);
        }
        match self.form.read(form) {
            Ok(message) => {
                self.topics.broadcast(key, message);
                true
            }
            Err(error) => {
                counters.invalid.add(1);
                tracing::warn!(
                    target: "getty::cluster",
                    set = &*self.name,
                    %origin,
                    error = &*error,
                    "a message of another node is not readable",
                );
                false
            }
        }
    }
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Set for Shared<K, Out> {
    fn snapshot(&self) -> TopicsSnapshot {
        self.counters
            .snapshot(self.topics.len(), self.interest.len())
    }

    fn receive(&self, header: Header, key: usize, mut frame: Bytes, to: &Dispatch) {
        let key = HEADER..HEADER + key;
        // Of other topics in the bucket, and of topics that this node has just left.
        let Some(topic) = self.interest.topic(&frame[key.clone()]) else {
            return;
        };
        frame.advance(key.end);
        let payload = frame;
        if !to.push(&topic, Message { header, payload }) {
            self.counters.dropped.add(1);
        }
    }

    fn close_members(&self, key: &[u8], reason: CloseReason) -> usize {
        let Some(key) = K::from_key_bytes(key) else {
            self.counters.invalid.add(1);
            return 0;
        };
        let members = self.topics.members(&key);
        for member in &members {
            member.close_with(reason.clone());
        }
        members.len()
    }

    fn cards(&self, key: &[u8]) -> Vec<String> {
        let Some(key) = K::from_key_bytes(key) else {
            return Vec::new();
        };
        let members = self.topics.members(&key);
        let cards = lock(&self.cards.by_session);
        members
            .iter()
            .filter_map(|member| cards.get(&member.id())?.get(&key).cloned())
            .collect()
    }
}

/// Returns the bucket of a key. It is the same on all nodes.
fn bucket(key: &[u8], buckets: u32) -> u32 {
    u32::try_from(stable_hash(key) % u64::from(buckets.max(1))).unwrap_or_default()
}

impl<K: Key, Out> Clone for ClusterTopics<K, Out> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            cluster: self.cluster.clone(),
        }
    }
}

impl<K: Key, Out> fmt::Debug for ClusterTopics<K, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTopics")
            .field("name", &self.shared.name)
            .field("local", &self.shared.topics)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_keeps_a_block_and_no_long_frame() {
        let kept = || {
            BUFFER.with(|cell| {
                let buffer = cell.take();
                let capacity = buffer.capacity();
                cell.set(buffer);
                capacity
            })
        };
        let write = |len: usize| {
            let mut buffer = Buffer::take();
            buffer.0.put_bytes(7, len);
            buffer
        };
        assert_eq!(write(100).next(), [7; 100][..]);
        assert_eq!(kept(), Buffer::BLOCK - 100);
        // a frame that waits while the next one is written
        let waits = write(200).next();
        assert_eq!(write(300).next(), [7; 300][..]);
        assert_eq!(waits, [7; 200][..]);
        assert_eq!(kept(), Buffer::BLOCK - 600);
        assert_eq!(write(100_000).next().len(), 100_000);
        assert_eq!(kept(), 0);
        // a form that has failed
        drop(write(100_000));
        assert_eq!(kept(), 0);
        drop(write(100));
        assert_eq!(write(0).0.len(), 0);
        assert_eq!(kept(), Buffer::BLOCK);
    }
}
