//! Groups by key.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use getty_core::{
    ConnectionHandle, Session, SlowConsumer, WeakSession, internal::BroadcastExt, sync::Mutex,
};

use super::{
    Broadcasting, Report, TopicsBuilder,
    broadcast::Broadcast,
    builder::Settings,
    members::{CallbackKey, List, Member, Members, Recipients, sessions, should_shrink},
};

/// Groups of sessions by key. A topic exists while it has members. Clones share the topics and
/// the settings.
///
/// A topic with one member gives it a name, such as a device number. A topic per user contains
/// all connections of the user.
///
/// A session may be in any number of topics. One close callback removes it from all topics. The
/// rules of [groups](super) apply to each topic: weak membership, one encoding, a policy per
/// member, a [`Report`].
///
/// ```
/// use getty_core::{Connection, driver};
/// use getty_layers::Topics;
///
/// let rooms: Topics<String, String> = Topics::new();
///
/// // a session without a socket, for tests
/// let connection = Connection::new(());
/// let (session, _driver) = driver::pair(connection.handle().clone());
/// rooms.join("tea".to_owned(), &session);
/// rooms.join("lobby".to_owned(), &session);
/// assert_eq!(rooms.broadcast("tea", "is ready".to_owned()).delivered, 1);
/// assert_eq!(rooms.broadcast("coffee", "is out".to_owned()).members(), 0);
///
/// rooms.leave("lobby", &session);
/// assert_eq!(rooms.of(&session), ["tea"]);
/// drop(connection); // ends the session
/// assert!(rooms.is_empty());
/// ```
///
/// # Patterns
///
/// For subscriptions to patterns, the keys are the patterns. [`broadcast_where`] compares each
/// pattern with the name of the published message. Its time grows with the number of patterns,
/// so exact names should be in separate topics, where [`broadcast`](Self::broadcast) will find
/// them by hash.
///
/// The filters of MQTT, with `+` for one level and `#` for all that follow:
///
/// ```
/// use getty_layers::{Topics, group::Report};
///
/// fn matches(filter: &str, topic: &str) -> bool {
///     // wildcards do not match topics of the server
///     if topic.starts_with('$') && filter.starts_with(['+', '#']) {
///         return false;
///     }
///     let mut levels = topic.split('/');
///     for part in filter.split('/') {
///         match (part, levels.next()) {
///             ("#", _) => return true,
///             ("+", Some(_)) => {}
///             (part, Some(level)) if part == level => {}
///             _ => return false,
///         }
///     }
///     levels.next().is_none()
/// }
///
/// fn publish(filters: &Topics<String, String>, topic: &str, message: String) -> Report {
///     filters.broadcast_where(|filter| matches(filter, topic), message)
/// }
/// # let _ = publish;
/// # assert!(matches("a/+/c", "a/b/c") && matches("a/#", "a/b/c") && matches("a/#", "a") && matches("#", "a"));
/// # assert!(!matches("a/+", "a/b/c") && !matches("a/b", "a") && !matches("#", "$SYS/load") && matches("+/b", "/b"));
/// ```
///
/// The patterns of Redis, with `*` for any text and `?` for one byte:
///
/// ```
/// fn matches(pattern: &[u8], channel: &[u8]) -> bool {
///     match (pattern, channel) {
///         ([], []) => true,
///         ([b'*', rest @ ..], _) => (0..=channel.len()).any(|skip| matches(rest, &channel[skip..])),
///         ([b'?', rest @ ..], [_, channel @ ..]) => matches(rest, channel),
///         ([byte, rest @ ..], [first, channel @ ..]) if byte == first => matches(rest, channel),
///         _ => false,
///     }
/// }
/// assert!(matches(b"news.*", b"news.art") && matches(b"h?llo", b"hello"));
/// assert!(!matches(b"news.*", b"old.news") && !matches(b"h?llo", b"hllo"));
/// ```
///
/// Its time is exponential in the number of `*`, so a server must limit that number. Redis
/// delivers a message once for each matching pattern, with the pattern. A server that does the
/// same should call [`broadcast`](Self::broadcast) for each matching key of
/// [`keys`](Self::keys).
///
/// [`broadcast_where`]: Self::broadcast_where
///
/// # Cost
///
/// Joining and leaving take constant time, independent of the number of topics, of members, and
/// of topics per session. Topics are distributed over 32 shards with one lock each. A broadcast
/// holds the lock of a shard briefly, to clone the list of members. Sessions are in 32 shards
/// as well, whose locks are held to join and leave. No message is queued and no task is woken
/// under a lock. `Hash` and `Eq` of the key run under the locks, and so does its `Clone` in
/// [`of`](Self::of): they must not use the topics. Keys are dropped outside the locks.
#[doc(alias = "pubsub")]
#[doc(alias = "broadcast")]
#[doc(alias = "rooms")]
pub struct Topics<K, Out> {
    shared: Arc<Shared<K, Out>>,
}

/// State of topics. Lock order: a shard of sessions before a shard of topics.
struct Shared<K, Out> {
    topics: [Shard<HashMap<K, Members<Out>>>; SHARDS],
    sessions: [Shard<HashMap<u64, Entry<K, Out>>>; SHARDS],
    hasher: RandomState,
    key: CallbackKey,
    settings: Settings<Out>,
    watcher: Option<Watcher<K>>,
}

/// Function that is called with the key of a topic that was created or removed.
pub(super) type Watcher<K> = Box<dyn Fn(&K) + Send + Sync>;

/// Number of shards. Broadcasts on some ten processors usually find their lock free.
const SHARDS: usize = 32;

/// Lock on a separate cache line.
#[repr(align(64))]
struct Shard<T>(Mutex<T>);

/// Session that has joined a topic. The entry exists until the session closes.
// The keys are indexed by session, so that a close does not search all topics (design.md: Why
// does `Topics` have an index of sessions?).
struct Entry<K, Out> {
    session: WeakSession<Out>,
    keys: HashSet<K>,
}

impl<K, Out> Topics<K, Out> {
    /// Creates new topics without members, with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder of topics with other settings; see
    /// [`Group::builder`](super::Group::builder).
    pub fn builder() -> TopicsBuilder<K, Out> {
        TopicsBuilder::new()
    }

    /// Creates new topics that call `changed` after each creation and each removal of a topic; see
    /// [`TopicsBuilder::watched`].
    #[must_use]
    pub fn watched(changed: impl Fn(&K) + Send + Sync + 'static) -> Self {
        Self::builder().watched(changed).build()
    }

    pub(super) fn with_settings(settings: Settings<Out>, watcher: Option<Watcher<K>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                topics: [(); SHARDS].map(|()| Shard::default()),
                sessions: [(); SHARDS].map(|()| Shard::default()),
                hasher: RandomState::new(),
                key: CallbackKey::unique(),
                settings,
                watcher,
            }),
        }
    }

    /// Returns the number of topics. Other threads may change it while they are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        let lens = self.shared.topics.iter().map(|shard| shard.0.lock().len());
        lens.sum()
    }

    /// Returns `true` if there are no topics.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash, Out> Topics<K, Out> {
    /// Returns the number of members of a topic.
    #[must_use]
    pub fn count<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.list(key).map_or(0, |list| list.len())
    }

    /// Returns the current members of a topic, in no particular order.
    #[must_use]
    pub fn members<Q>(&self, key: &Q) -> Vec<Session<Out>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.list(key).map_or_else(Vec::new, |list| sessions(&list))
    }

    /// Returns `true` if `session` is a member of the topic.
    #[must_use]
    pub fn contains<Q>(&self, key: &Q, session: &ConnectionHandle) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let topics = self.shared.topics(key).lock();
        let members = topics.get(key);
        members.is_some_and(|members| members.contains(session.id()))
    }

    /// Returns the topics of `session`, in no particular order.
    #[must_use]
    pub fn of(&self, session: &ConnectionHandle) -> Vec<K>
    where
        K: Clone,
    {
        let sessions = self.shared.sessions(session.id()).lock();
        let entry = sessions.get(&session.id());
        entry.map_or_else(Vec::new, |entry| entry.keys.iter().cloned().collect())
    }

    /// Returns the number of topics of `session`. It costs no copy of their keys.
    #[must_use]
    pub fn count_of(&self, session: &ConnectionHandle) -> usize {
        let sessions = self.shared.sessions(session.id()).lock();
        let entry = sessions.get(&session.id());
        entry.map_or(0, |entry| entry.keys.len())
    }

    /// Returns the keys of all topics, in no particular order. Other threads may create and remove
    /// topics meanwhile. Each shard is locked while its keys are cloned.
    #[must_use]
    pub fn keys(&self) -> Vec<K>
    where
        K: Clone,
    {
        let mut keys = Vec::new();
        for shard in &self.shared.topics {
            keys.extend(shard.0.lock().keys().cloned());
        }
        keys
    }

    /// Removes `session` from a topic. The topic is removed with its last member. Returns `false`
    /// if the session was not a member.
    pub fn leave<Q>(&self, key: &Q, session: &ConnectionHandle) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut sessions = self.shared.sessions(session.id()).lock();
        let entry = sessions.get_mut(&session.id());
        let left = entry.and_then(|entry| {
            let left = entry.keys.take(key);
            if should_shrink(entry.keys.len(), entry.keys.capacity()) {
                entry.keys.shrink_to(2 * entry.keys.len());
            }
            left
        });
        let Some(left) = left else {
            return false;
        };
        let emptied = self.shared.remove(key, session.id());
        drop(sessions);
        self.shared.notify(&emptied);
        drop((left, emptied)); // the keys are dropped outside the locks
        true
    }

    /// Removes `session` from all its topics and returns their number. A close does this
    /// automatically.
    pub fn leave_all(&self, session: &ConnectionHandle) -> usize {
        let mut sessions = self.shared.sessions(session.id()).lock();
        let Some(entry) = sessions.get_mut(&session.id()) else {
            return 0;
        };
        let left = std::mem::take(&mut entry.keys);
        // Under the lock of the session, which otherwise might join again meanwhile.
        let emptied = self.shared.remove_all(&left, session.id());
        drop(sessions);
        self.shared.notify(&emptied);
        drop(emptied); // the keys are dropped outside the locks
        left.len()
    }

    /// Queues `message` with all members of a topic, without waiting; see
    /// [`Group::broadcast`](super::Group::broadcast).
    pub fn broadcast<Q>(&self, key: &Q, message: Out) -> Report
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        self.begin(key, message).send_now()
    }

    /// Queues `message` with all members of a topic except `sender`, which need not be a member;
    /// see [`broadcast`](Self::broadcast).
    pub fn broadcast_except<Q>(&self, key: &Q, sender: &ConnectionHandle, message: Out) -> Report
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        self.begin(key, message).except(sender).send_now()
    }

    /// Counts messages that the members of a topic have missed elsewhere, for example on the way
    /// from another machine. The [notice](super::TopicsBuilder::with_notice) before the next
    /// broadcast includes them. Without a notice it has no effect.
    pub fn count_missed<Q>(&self, key: &Q, messages: u64)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        for member in self.list(key).iter().flat_map(|list| list.iter()) {
            member.count_missed(messages);
        }
    }

    /// Queues `message` with the members of all topics whose key `matches`, without waiting; see
    /// [patterns](Self#patterns). A member of several of these topics gets the message once, with
    /// the policy of one of them.
    ///
    /// It calls `matches` for the key of every topic, under the lock of a shard, so `matches` must
    /// not use the topics. The members are copied if more than one topic matches.
    pub fn broadcast_where(&self, mut matches: impl FnMut(&K) -> bool, message: Out) -> Report
    where
        Out: Clone,
    {
        let mut found = Vec::new();
        for shard in &self.shared.topics {
            let topics = shard.0.lock();
            let matching = topics.iter().filter(|(key, _)| matches(key));
            found.extend(matching.map(|(_, members)| members.recipients()));
        }
        Broadcast::new(Recipients::union(found), message, &self.shared.settings).send_now()
    }

    /// Queues `message` with all members of a topic and waits for room in the queues of members
    /// with the policy [`SlowConsumer::Wait`]; see
    /// [`Group::broadcast_and_wait`](super::Group::broadcast_and_wait).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before its first poll, nothing is sent. If it is dropped later, the
    /// members that it still waits for do not get the message; all others do.
    pub fn broadcast_and_wait<Q>(&self, key: &Q, message: Out) -> Broadcasting<Out>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        Broadcasting::new(self.begin(key, message))
    }

    fn begin<Q>(&self, key: &Q, message: Out) -> Broadcast<Out>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        let topics = self.shared.topics(key).lock();
        let recipients = topics.get(key).map(Members::recipients);
        drop(topics);
        Broadcast::new(
            recipients.unwrap_or_default(),
            message,
            &self.shared.settings,
        )
    }

    fn list<Q>(&self, key: &Q) -> Option<List<Out>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let topics = self.shared.topics(key).lock();
        topics.get(key).map(Members::list)
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, Out: Send + 'static> Topics<K, Out> {
    /// Adds `session` to a topic, until it leaves or closes. The topic is created if it does not
    /// exist. Returns `false` if the session has closed or if it was a member already. In the
    /// latter case nothing changes. A handler that confirms the membership must feed the
    /// confirmation and then join; see [`Group::join`](super::Group::join).
    pub fn join(&self, key: K, session: &Session<Out>) -> bool {
        self.enter(key, session, None)
    }

    /// Adds `session` to a topic with a policy for the time that it is slow; see
    /// [`join`](Self::join). If it was a member already, its policy is replaced.
    pub fn join_with(&self, key: K, session: &Session<Out>, policy: SlowConsumer) -> bool {
        self.enter(key, session, Some(policy))
    }

    fn enter(&self, key: K, session: &Session<Out>, policy: Option<SlowConsumer>) -> bool {
        self.register(session);
        let member = Member::new(session, &self.shared.settings, policy);
        let (id, weigh) = (session.id(), session.weigh());
        // Declared before the locks: a key that is not needed is dropped after they are released.
        let (of_topic, of_session) = (key.clone(), key);
        let watched = self.shared.watcher.is_some().then(|| of_topic.clone());

        let mut sessions = self.shared.sessions(id).lock();
        let Some(entry) = sessions.get_mut(&id) else {
            return false; // the session has closed
        };
        let mut topics = self.shared.topics(&of_topic).lock();
        let mut created = None;
        let joined = match topics.get_mut(&of_topic) {
            Some(members) => members.insert(member, weigh, policy),
            None => {
                created = watched;
                let members = topics.entry(of_topic).or_default();
                members.insert(member, weigh, policy)
            }
        };
        if joined {
            entry.keys.insert(of_session);
        }
        drop((topics, sessions));
        if let (Some(changed), Some(key)) = (&self.shared.watcher, &created) {
            changed(key);
        }
        joined
    }

    /// Adds the close callback that removes `session` from all topics.
    fn register(&self, session: &Session<Out>) {
        let id = session.id();
        let mut sessions = self.shared.sessions(id).lock();
        if sessions.contains_key(&id) {
            return;
        }
        let entry = Entry {
            session: session.downgrade(),
            keys: HashSet::new(),
        };
        sessions.insert(id, entry);
        drop(sessions);
        let shared = Arc::downgrade(&self.shared);
        // Outside the lock because a closed session calls the callback at once.
        self.shared.key.add_callback(session, move || {
            if let Some(shared) = shared.upgrade() {
                shared.remove_session(id);
            }
        });
    }
}

impl<K: Eq + Hash, Out> Shared<K, Out> {
    /// Removes a session from a topic. Returns the topic if that was its last member.
    fn remove<Q>(&self, key: &Q, id: u64) -> Option<(K, Members<Out>)>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut topics = self.topics(key).lock();
        let members = topics.get_mut(key)?;
        members.remove(id);
        if !members.is_empty() {
            return None;
        }
        let emptied = topics.remove_entry(key);
        if should_shrink(topics.len(), topics.capacity()) {
            let len = topics.len();
            topics.shrink_to(2 * len);
        }
        emptied
    }

    /// Removes a session from several topics.
    fn remove_all(&self, keys: &HashSet<K>, id: u64) -> Vec<(K, Members<Out>)> {
        keys.iter().filter_map(|key| self.remove(key, id)).collect()
    }

    /// Removes a closed session. Its entry is removed first, so it cannot join again.
    fn remove_session(&self, id: u64) {
        let mut sessions = self.sessions(id).lock();
        let entry = sessions.remove(&id);
        if should_shrink(sessions.len(), sessions.capacity()) {
            let len = sessions.len();
            sessions.shrink_to(2 * len);
        }
        drop(sessions);
        if let Some(Entry { keys, .. }) = entry {
            let emptied = self.remove_all(&keys, id);
            self.notify(&emptied);
        }
    }

    /// Calls the watcher with the keys of removed topics. No lock may be held.
    fn notify<'a>(&self, removed: impl IntoIterator<Item = &'a (K, Members<Out>)>)
    where
        K: 'a,
        Out: 'a,
    {
        if let Some(changed) = &self.watcher {
            removed.into_iter().for_each(|(key, _)| changed(key));
        }
    }
}

impl<K, Out> Shared<K, Out> {
    fn topics<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<HashMap<K, Members<Out>>> {
        &self.topics[shard(self.hasher.hash_one(key))].0
    }

    fn sessions(&self, id: u64) -> &Mutex<HashMap<u64, Entry<K, Out>>> {
        &self.sessions[shard(id)].0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is less than the number of shards"
)]
const fn shard(hash: u64) -> usize {
    (hash % SHARDS as u64) as usize
}

impl<K, Out> Drop for Shared<K, Out> {
    fn drop(&mut self) {
        for shard in &self.sessions {
            let sessions = shard.0.lock();
            let alive = sessions
                .values()
                .filter_map(|entry| entry.session.upgrade());
            let alive: Vec<_> = alive.collect();
            drop(sessions);
            alive
                .iter()
                .for_each(|session| self.key.remove_callback(session));
        }
    }
}

impl<T: Default> Default for Shard<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, Out> Default for Topics<K, Out> {
    fn default() -> Self {
        Self::with_settings(Settings::default(), None)
    }
}

impl<K, Out> Clone for Topics<K, Out> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, Out> fmt::Debug for Topics<K, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics")
            .field("len", &self.len())
            .field("settings", &self.shared.settings)
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::{Connection, driver};

    use super::*;

    #[test]
    fn removed_topics_use_no_memory() {
        const MANY: u32 = 100_000;
        let topics: Topics<u32, ()> = Topics::new();
        let room = || {
            let shards = topics.shared.topics.iter();
            let topics_room: usize = shards.map(|shard| shard.0.lock().capacity()).sum();
            let shards = topics.shared.sessions.iter();
            let keys = |shard: &Shard<HashMap<u64, Entry<u32, ()>>>| -> usize {
                let entries = shard.0.lock();
                entries.values().map(|entry| entry.keys.capacity()).sum()
            };
            (topics_room, shards.map(keys).sum::<usize>())
        };
        let connection = Connection::new(());
        let (session, _driver) = driver::pair(connection.handle().clone());
        for key in 0..MANY {
            assert!(topics.join(key, &session));
        }
        let full = room();
        assert!(full.0 >= MANY as usize && full.1 >= MANY as usize);
        for key in 0..MANY {
            assert!(topics.leave(&key, &session));
        }
        let (of_topics, of_session) = room();
        assert!(of_topics < 10_000, "{of_topics} of {}", full.0);
        assert!(of_session < 1_000, "{of_session} of {}", full.1);

        // The same for all topics at once.
        (0..MANY).for_each(|key| assert!(topics.join(key, &session)));
        assert_eq!(topics.leave_all(&session), MANY as usize);
        let (of_topics, of_session) = room();
        assert!(of_topics < 10_000 && of_session < 1_000);
    }

    #[test]
    fn watcher_may_use_the_topics_and_finally_knows_those_that_exist() {
        type Seen = Arc<Mutex<HashSet<u32>>>;
        let (seen, topics) = (Seen::default(), Arc::new(std::sync::OnceLock::new()));
        let (known, weak) = (Arc::clone(&seen), Arc::downgrade(&topics));
        let watched = Topics::<u32, ()>::watched(move |key| {
            let topics = weak.upgrade().expect("the topics exist");
            let topics: &Topics<u32, ()> = topics.get().expect("they were set");
            let mut known = known.lock();
            if topics.count(key) > 0 {
                known.insert(*key);
            } else {
                known.remove(key);
            }
        });
        let topics = topics.get_or_init(|| watched);
        std::thread::scope(|threads| {
            for id in 0..4 {
                threads.spawn(move || {
                    for round in 0..200 {
                        let connection = Connection::new(());
                        let (session, _driver) = driver::pair(connection.handle().clone());
                        for key in 0..8 {
                            topics.join(key, &session);
                        }
                        topics.leave(&(round % 8), &session);
                        if round % 3 == id % 3 {
                            topics.leave_all(&session);
                        }
                    }
                });
            }
        });
        assert!(topics.is_empty());
        assert!(seen.lock().is_empty());
        let connection = Connection::new(());
        let (session, _driver) = driver::pair(connection.handle().clone());
        assert!(topics.join(7, &session));
        assert_eq!(*seen.lock(), HashSet::from([7]));
    }

    #[test]
    fn closed_sessions_use_no_memory() {
        const MANY: usize = 20_000;
        let topics: Topics<u32, ()> = Topics::new();
        let connections: Vec<_> = (0..MANY).map(|_| Connection::new(())).collect();
        for connection in &connections {
            let (session, _driver) = driver::pair(connection.handle().clone());
            assert!(topics.join(1, &session));
        }
        drop(connections);
        assert!(topics.is_empty());
        let shards = topics.shared.sessions.iter();
        let room: usize = shards.map(|shard| shard.0.lock().capacity()).sum();
        assert!(room < MANY / 10, "{room}");
    }
}
