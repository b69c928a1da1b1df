//! Many groups by key.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use getty_core::{ConnectionHandle, Session, SlowConsumer, WeakSession, sync::Mutex};

use super::{
    Broadcasting, Report,
    deliver::Broadcast,
    members::{List, Member, Members, Token, is_roomy, sessions},
    settings::Settings,
};

/// Many groups of sessions, by key: each a topic, which is there as long as it has members. Clones share them.
///
/// A topic of one member is a name for it: devices by their number, or a user who has come from several places.
///
/// A session may be in any number of topics. It leaves them all when it closes, by one close callback. What is said of
/// [groups](super) holds for each topic: weak membership, one encoding, a policy for each member, a [`Report`].
///
/// ```
/// use getty_core::{Connection, driver};
/// use getty_layers::Topics;
///
/// let rooms: Topics<String, String> = Topics::new();
///
/// // a session without a socket, as tests make it
/// let connection = Connection::new(());
/// let (session, _driver) = driver::pair(connection.handle().clone());
/// rooms.join("tea".to_owned(), &session);
/// rooms.join("lobby".to_owned(), &session);
/// assert_eq!(rooms.broadcast("tea", "is ready".to_owned()).delivered, 1);
/// assert_eq!(rooms.broadcast("coffee", "is out".to_owned()).members(), 0);
///
/// rooms.leave("lobby", &session);
/// assert_eq!(rooms.of(&session), ["tea"]);
/// drop(connection); // which ends the session
/// assert!(rooms.is_empty());
/// ```
///
/// # Cost
///
/// Joining and leaving are of constant cost, whatever the number of topics, members, and topics of the session. Topics
/// lie in 32 shards with a lock each, which a broadcast takes for a moment to get hold of the list of members, and so do
/// sessions, whose locks are taken to join and to leave. Nothing is queued and nobody woken under any of them. The key's
/// `Hash` and `Eq` do run under them, and its `Clone` in [`of`](Self::of): they must not use the topics. Keys are dropped
/// outside.
pub struct Topics<K, Out> {
    shared: Arc<Shared<K, Out>>,
    settings: Settings<Out>,
}

/// A lock of a session's shard is taken before that of a topic's, never the other way round.
struct Shared<K, Out> {
    topics: [Shard<HashMap<K, Members<Out>>>; SHARDS],
    sessions: [Shard<HashMap<u64, Entry<K, Out>>>; SHARDS],
    hasher: RandomState,
    token: Token,
}

/// Enough for a broadcast on each of some ten processors to find its lock free as a rule.
const SHARDS: usize = 32;

/// On cache lines of its own.
#[repr(align(64))]
struct Shard<T>(Mutex<T>);

/// A session that has joined a topic; it is here until it closes.
struct Entry<K, Out> {
    session: WeakSession<Out>,
    keys: HashSet<K>,
}

impl<K, Out> Topics<K, Out> {
    /// No topics yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Group::with_policy`](super::Group::with_policy).
    #[must_use]
    pub const fn with_policy(mut self, policy: SlowConsumer) -> Self {
        self.settings.policy = policy;
        self
    }

    /// As [`Group::with_notice`](super::Group::with_notice), for each topic by itself.
    #[must_use]
    pub fn with_notice(mut self, notice: impl Fn(u64) -> Out + Send + Sync + 'static) -> Self {
        self.settings.notice = Some(Arc::new(notice));
        self
    }

    /// How many topics there are. Others may change it while they are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        let lens = self.shared.topics.iter().map(|shard| shard.0.lock().len());
        lens.sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash, Out> Topics<K, Out> {
    /// How many members the topic has.
    #[must_use]
    pub fn count<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.list(key).map_or(0, |list| list.len())
    }

    /// The members that the topic has now, in no particular order.
    #[must_use]
    pub fn members<Q>(&self, key: &Q) -> Vec<Session<Out>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.list(key).map_or_else(Vec::new, |list| sessions(&list))
    }

    /// Whether `session` is in the topic.
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

    /// The topics of `session`, in no particular order.
    #[must_use]
    pub fn of(&self, session: &ConnectionHandle) -> Vec<K>
    where
        K: Clone,
    {
        let sessions = self.shared.sessions(session.id()).lock();
        let entry = sessions.get(&session.id());
        entry.map_or_else(Vec::new, |entry| entry.keys.iter().cloned().collect())
    }

    /// Takes `session` out of a topic, which is gone when that was its last member. `false` if it was not in.
    pub fn leave<Q>(&self, key: &Q, session: &ConnectionHandle) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut sessions = self.shared.sessions(session.id()).lock();
        let entry = sessions.get_mut(&session.id());
        let left = entry.and_then(|entry| {
            let left = entry.keys.take(key);
            if is_roomy(entry.keys.len(), entry.keys.capacity()) {
                entry.keys.shrink_to(2 * entry.keys.len());
            }
            left
        });
        let Some(left) = left else {
            return false;
        };
        let emptied = self.shared.remove(key, session.id());
        drop(sessions);
        drop((left, emptied)); // the user's values
        true
    }

    /// Takes `session` out of all its topics; gives their number. At its close this happens by itself.
    pub fn leave_all(&self, session: &ConnectionHandle) -> usize {
        let mut sessions = self.shared.sessions(session.id()).lock();
        let Some(entry) = sessions.get_mut(&session.id()) else {
            return 0;
        };
        let left = std::mem::take(&mut entry.keys);
        // under the lock of the session, which might join again
        let emptied = self.shared.remove_all(&left, session.id());
        drop(sessions);
        drop(emptied); // the user's values
        left.len()
    }

    /// Queues `message` with all members of the topic: as [`Group::broadcast`](super::Group::broadcast).
    pub fn broadcast<Q>(&self, key: &Q, message: Out) -> Report
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        self.begin(key, message).now()
    }

    /// As [`broadcast`](Self::broadcast), to all but `sender`, which need not be in the topic.
    pub fn broadcast_except<Q>(&self, key: &Q, sender: &ConnectionHandle, message: Out) -> Report
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
        Out: Clone,
    {
        self.begin(key, message).except(sender).now()
    }

    /// As [`broadcast`](Self::broadcast), but waits for room with those members whose policy is
    /// [`SlowConsumer::Wait`]: as [`Group::broadcast_and_wait`](super::Group::broadcast_and_wait).
    ///
    /// # Cancel safety
    ///
    /// Dropped before it was polled it sends nothing. Dropped later, those that were still waited for do not get the
    /// message; all others do.
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
        let members = topics.get(key).map(Members::present);
        drop(topics);
        Broadcast::new(members.unwrap_or_default(), message, &self.settings)
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
    /// Takes `session` into the topic `key`, which is made if need be, until it leaves or closes. `false` if it was in
    /// already, and then nothing changes, or has closed.
    pub fn join(&self, key: K, session: &Session<Out>) -> bool {
        self.enter(key, session, None)
    }

    /// As [`join`](Self::join), with what is done while this member is slow. For one that was in already that is changed.
    pub fn join_with(&self, key: K, session: &Session<Out>, policy: SlowConsumer) -> bool {
        self.enter(key, session, Some(policy))
    }

    fn enter(&self, key: K, session: &Session<Out>, policy: Option<SlowConsumer>) -> bool {
        self.register(session);
        let member = Member::new(session, &self.settings, policy);
        let (id, weigh) = (session.id(), session.weigh());
        // dropped after the locks, where they are not needed, because they stand before them
        let (of_topic, of_session) = (key.clone(), key);

        let mut sessions = self.shared.sessions(id).lock();
        let Some(entry) = sessions.get_mut(&id) else {
            return false; // it has closed
        };
        let mut topics = self.shared.topics(&of_topic).lock();
        let joined = match topics.get_mut(&of_topic) {
            Some(members) => members.weigh(weigh).insert(member, policy),
            None => {
                let members = topics.entry(of_topic).or_default();
                members.weigh(weigh).insert(member, policy)
            }
        };
        if joined {
            entry.keys.insert(of_session);
        }
        joined
    }

    /// Has `session` leave everything when it closes.
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
        // outside of the lock, because on a session that has closed already it is called right here
        self.shared.token.leave_at_close(session, move || {
            if let Some(shared) = shared.upgrade() {
                shared.closed(id);
            }
        });
    }
}

impl<K: Eq + Hash, Out> Shared<K, Out> {
    /// Takes a session out of a topic; gives the topic when that was its last one.
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
        if is_roomy(topics.len(), topics.capacity()) {
            let len = topics.len();
            topics.shrink_to(2 * len);
        }
        emptied
    }

    /// The same for several topics.
    fn remove_all(&self, keys: &HashSet<K>, id: u64) -> Vec<(K, Members<Out>)> {
        keys.iter().filter_map(|key| self.remove(key, id)).collect()
    }

    /// A session has closed: nobody finds it here any more, and so nothing can be added to what it leaves.
    fn closed(&self, id: u64) {
        let mut sessions = self.sessions(id).lock();
        let entry = sessions.remove(&id);
        if is_roomy(sessions.len(), sessions.capacity()) {
            let len = sessions.len();
            sessions.shrink_to(2 * len);
        }
        drop(sessions);
        if let Some(Entry { keys, .. }) = entry {
            self.remove_all(&keys, id);
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
    reason = "it is less than the number of shards"
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
            alive.iter().for_each(|session| self.token.forget(session));
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
        Self {
            shared: Arc::new(Shared {
                topics: [(); SHARDS].map(|()| Shard::default()),
                sessions: [(); SHARDS].map(|()| Shard::default()),
                hasher: RandomState::new(),
                token: Token::unique(),
            }),
            settings: Settings::default(),
        }
    }
}

impl<K, Out> Clone for Topics<K, Out> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            settings: self.settings.clone(),
        }
    }
}

impl<K, Out> fmt::Debug for Topics<K, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics")
            .field("len", &self.len())
            .field("settings", &self.settings)
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use getty_core::{Connection, driver};

    #[test]
    fn topics_that_are_gone_leave_no_memory_behind() {
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

        // and at once
        (0..MANY).for_each(|key| assert!(topics.join(key, &session)));
        assert_eq!(topics.leave_all(&session), MANY as usize);
        let (of_topics, of_session) = room();
        assert!(of_topics < 10_000 && of_session < 1_000);
    }

    #[test]
    fn sessions_that_are_gone_leave_no_memory_behind() {
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
