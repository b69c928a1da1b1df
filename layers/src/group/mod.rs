//! Groups of sessions: a broadcast is encoded once and queued with each member.
//!
//! A [`Group`] is one set of sessions. [`Topics`] are many sets, by key: rooms of a chat,
//! shards of a game, symbols of a feed.
//!
//! - *Membership* ends with the session, however it ends: a close callback removes the session
//!   after its transport was dropped. A group keeps no session alive, and a session keeps no
//!   group alive.
//! - *A broadcast* puts one message into the queues of all members, by reference, and returns a
//!   [`Report`]. It never waits, except [`broadcast_and_wait`](Group::broadcast_and_wait). So
//!   it can be called anywhere: in a handler, in a close callback, or while the application
//!   holds a lock.
//! - *Encoding* is done by the first session that writes the message. All sessions with the
//!   same codec settings write the same bytes: those of one [`CodecLayer`](crate::CodecLayer)
//!   and its clones. The codec must therefore encode the same message to the same bytes for
//!   each session. For a codec that does not, because it numbers messages or compresses with a
//!   shared window, set
//!   [`with_shared_encodings(false)`](crate::CodecLayer::with_shared_encodings); each session
//!   then encodes separately. Members of several protocols may share a group: each protocol
//!   encodes once.
//! - *Order*: messages of one task, to groups or to a single session, arrive in that order at
//!   each member that they reach. Broadcasts of several tasks may arrive in different orders at
//!   different members.
//! - *Slow members* are handled by their own [`SlowConsumer`] policy and do not affect other
//!   members. By default a slow member misses messages, which the [`Report`] and its
//!   [`Stats::dropped`] count. Use [`SlowConsumer::Close`] or
//!   [`GroupBuilder::with_notice`] if it must know.
//! - *A message that a member's codec refuses*, for example because it is longer than the
//!   maximum, is dropped for that member and counted in its [`Stats::dropped`]. No member
//!   closes.
//!
//! Scope: process, or everything that shares the group.
//!
//! # Room
//!
//! The room of a member is counted in bytes. Its queue accepts broadcasts up to
//! [`SessionLayer::with_queue_bytes`](https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue_bytes),
//! 1 MiB by default, independent of its write buffer. Each broadcast counts as its size plus 32
//! bytes. So a member loses nothing in a burst of 27,000 messages of 6 bytes or 990 messages of
//! 1 KiB even if its session is not polled meanwhile. A message that exceeds the bound alone is
//! queued while no other waits. The bound also applies to a member that reads nothing.
//!
//! The bound of a session's own messages is a number of messages. Broadcasts use slots of the
//! queue only while no [`send`](getty_core::Session::send) waits for one.
//!
//! The size of a message is known for types of bytes and text such as `String` and `Bytes`. For
//! other types it is known with [`CodecLayer::with_weight`](crate::CodecLayer::with_weight), or
//! once a session has encoded the message. Otherwise the mean of the messages that the member's
//! session has encoded is assumed. All members share the messages, so a
//! [`MemoryBudget`](getty_core::MemoryBudget) counts only the queue entries.
//!
//! | publisher | at the bound of a member |
//! |---|---|
//! | [`broadcast`], anywhere | the member's policy applies: a loss is counted in the [`Report`] and in [`Stats::dropped`] |
//! | [`broadcast_and_wait`], outside handlers | waits for members that joined with [`SlowConsumer::Wait`], and loses nothing for them |
//! | the same in a handler | like a [`feed`] in a handler, which is in flight meanwhile |
//!
//! A publisher on another thread is at most the byte bound ahead of a member. While publishers
//! wait for a member, `broadcast` may use half of the bound, and the waiting publishers the
//! rest.
//!
//! A broadcast also uses tokio's cooperative budget. So a session that broadcasts the messages
//! of its peer, or a task that broadcasts and sometimes awaits, yields to the sessions that
//! write the messages. A loop that never awaits does not yield; use
//! [`broadcast_and_wait`](Group::broadcast_and_wait) there.
//!
//! # Example
//!
//! ```
//! use getty_core::{Connection, SlowConsumer, driver};
//! use getty_layers::Group;
//!
//! let lobby: Group<String> = Group::new();
//!
//! // sessions without a socket, for tests
//! let connections = [(); 3].map(Connection::new);
//! let pairs = connections.each_ref().map(|connection| driver::pair(connection.handle().clone()));
//! let [ann, bob, cat] = pairs.each_ref().map(|(session, _)| session);
//! for session in [ann, bob] {
//!     assert!(lobby.join(session));
//! }
//! lobby.join_with(cat, SlowConsumer::Close);
//!
//! let report = lobby.broadcast_except(ann, "ann: hello".to_owned());
//! assert_eq!((report.delivered, report.dropped), (2, 0));
//! assert_eq!((ann.queued(), bob.queued()), (0, 1));
//!
//! lobby.leave(ann);
//! drop(connections); // ends the sessions and their membership
//! assert!(lobby.is_empty());
//! ```
//!
//! [`broadcast`]: Group::broadcast
//! [`Stats::dropped`]: getty_core::Stats::dropped
//! [`broadcast_and_wait`]: Group::broadcast_and_wait
//! [`feed`]: getty_core::Session::feed

mod broadcast;
mod builder;
mod members;
mod report;
mod topics;

use std::{borrow::Borrow, fmt, sync::Arc};

use getty_core::{ConnectionHandle, Session, SlowConsumer, internal::BroadcastExt, sync::Mutex};

pub use self::{
    broadcast::Broadcasting,
    builder::{GroupBuilder, TopicsBuilder},
    report::Report,
    topics::Topics,
};

use self::{
    broadcast::Broadcast,
    builder::Settings,
    members::{CallbackKey, Member, Members, sessions},
};

/// Set of sessions that receive the same messages; see the [module](self). Clones share the
/// members and the settings.
///
/// A lock guards the list of members. It is held briefly when a session joins or leaves and
/// when a broadcast starts. It is never held while messages are queued, and no user code runs
/// under it. So sessions may join, leave and broadcast in handlers and close callbacks. A
/// session that leaves during a broadcast may still get the message.
///
/// Joining and leaving take constant time, independent of the number of members and of the
/// groups of a session. Each group adds a close callback to each of its sessions. [`Topics`]
/// add one for all topics; use them for sessions in many groups.
#[doc(alias = "broadcast")]
#[doc(alias = "rooms")]
pub struct Group<Out> {
    shared: Arc<Shared<Out>>,
}

struct Shared<Out> {
    members: Mutex<Members<Out>>,
    key: CallbackKey,
    settings: Settings<Out>,
}

impl<Out> Group<Out> {
    /// Creates a new group without members, with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder of a group with other settings.
    ///
    /// ```
    /// use getty_core::SlowConsumer;
    /// use getty_layers::Group;
    ///
    /// let feed: Group<String> = Group::builder()
    ///     .with_policy(SlowConsumer::DropOldest)
    ///     .with_notice(|missed| format!("{missed} messages missed"))
    ///     .build();
    /// assert!(feed.is_empty());
    /// ```
    pub fn builder() -> GroupBuilder<Out> {
        GroupBuilder::new()
    }

    fn with_settings(settings: Settings<Out>) -> Self {
        Self {
            shared: Arc::new(Shared {
                members: Mutex::default(),
                key: CallbackKey::unique(),
                settings,
            }),
        }
    }

    /// Returns the number of members. A closing session is a member until its transport is dropped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.members.lock().len()
    }

    /// Returns `true` if there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns `true` if `session` is a member.
    #[must_use]
    pub fn contains(&self, session: &ConnectionHandle) -> bool {
        self.shared.members.lock().contains(session.id())
    }

    /// Returns the current members, in no particular order.
    #[must_use]
    pub fn members(&self) -> Vec<Session<Out>> {
        let list = self.shared.members.lock().list();
        sessions(&list)
    }

    /// Removes `session`. Returns `false` if it was not a member.
    pub fn leave(&self, session: &ConnectionHandle) -> bool {
        // In this order: otherwise a session that joins again meanwhile would lose its callback.
        self.shared.key.remove_callback(session);
        self.shared.members.lock().remove(session.id())
    }

    /// Queues `message` with all members, without waiting.
    ///
    /// If a member has no room, its policy applies. A member with [`SlowConsumer::Wait`] misses the
    /// message because this method does not wait.
    // The caller may hold a lock or run in a close callback (design.md: Why does `broadcast` not
    // wait?).
    pub fn broadcast(&self, message: Out) -> Report
    where
        Out: Clone,
    {
        self.begin(message).send_now()
    }

    /// Queues `message` with all members except `sender`, which need not be a member; see
    /// [`broadcast`](Self::broadcast).
    pub fn broadcast_except(&self, sender: &ConnectionHandle, message: Out) -> Report
    where
        Out: Clone,
    {
        self.begin(message).except(sender).send_now()
    }

    /// Queues `message` with all members and waits for room in the queues of members with the
    /// policy [`SlowConsumer::Wait`].
    ///
    /// All other members are served before the wait and are not delayed. The wait for a session
    /// ends when the session ends. By default the write timeout closes a session whose peer reads
    /// nothing.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before its first poll, nothing is sent. If it is dropped later, the
    /// members that it still waits for do not get the message; all others do.
    pub fn broadcast_and_wait(&self, message: Out) -> Broadcasting<Out>
    where
        Out: Clone,
    {
        Broadcasting::new(self.begin(message))
    }

    /// Queues `message` with `sessions`, without a group: for a list that is made for one message,
    /// such as the players near an event. Like a [broadcast](Self::broadcast) it is encoded once
    /// and never waits.
    ///
    /// `policy` applies to sessions without room. With [`SlowConsumer::Wait`] they miss the
    /// message. A session that is in the list twice gets the message twice.
    ///
    /// ```
    /// use getty_core::{Connection, SlowConsumer, driver};
    /// use getty_layers::Group;
    ///
    /// // sessions without a socket, for tests
    /// let connections = [(); 3].map(Connection::new);
    /// let pairs = connections.each_ref().map(|connection| driver::pair(connection.handle().clone()));
    /// let sessions = pairs.each_ref().map(|(session, _)| session);
    ///
    /// let near = &sessions[..2];
    /// let report = Group::broadcast_to(near.iter().copied(), "boom", SlowConsumer::DropNewest);
    /// assert_eq!(report.delivered, 2);
    /// assert_eq!(sessions.map(|session| session.queued()), [1, 1, 0]);
    /// ```
    pub fn broadcast_to(
        sessions: impl IntoIterator<Item: Borrow<Session<Out>>>,
        message: Out,
        policy: SlowConsumer,
    ) -> Report
    where
        Out: Clone + Send + 'static,
    {
        broadcast::send_to(sessions, message, policy)
    }

    fn begin(&self, message: Out) -> Broadcast<Out>
    where
        Out: Clone,
    {
        let recipients = self.shared.members.lock().recipients();
        Broadcast::new(recipients, message, &self.shared.settings)
    }
}

impl<Out: Send + 'static> Group<Out> {
    /// Adds `session` until it leaves or closes. Returns `false` if it has closed or if it was a
    /// member already. In the latter case nothing changes.
    ///
    /// A broadcast may reach the session at once. A handler that confirms the membership must
    /// [feed](Session::feed) the confirmation and then join. A returned reply may follow broadcasts
    /// that other tasks have queued meanwhile.
    ///
    /// ```
    /// use getty_core::{Reply, Request};
    /// use getty_layers::Group;
    ///
    /// type BoxError = Box<dyn std::error::Error + Send + Sync>;
    ///
    /// async fn subscribe(news: Group<String>, request: Request<String>) -> Result<Reply<String>, BoxError> {
    ///     let session = request.session();
    ///     session.feed("subscribed".to_owned()).await?;
    ///     news.join(session);
    ///     Ok(Reply::none())
    /// }
    /// # let _ = subscribe;
    /// ```
    pub fn join(&self, session: &Session<Out>) -> bool {
        self.enter(session, None)
    }

    /// Adds `session` with a policy for the time that it is slow; see [`join`](Self::join). If it
    /// was a member already, its policy is replaced.
    pub fn join_with(&self, session: &Session<Out>, policy: SlowConsumer) -> bool {
        self.enter(session, Some(policy))
    }

    fn enter(&self, session: &Session<Out>, policy: Option<SlowConsumer>) -> bool {
        let member = Member::new(session, &self.shared.settings, policy);
        let weigh = session.weigh();
        let mut members = self.shared.members.lock();
        let joined = members.insert(member, weigh, policy);
        drop(members);
        if !joined {
            return false;
        }
        let (id, shared) = (session.id(), Arc::downgrade(&self.shared));
        // Outside the lock because a closed session calls the callback at once.
        self.shared.key.add_callback(session, move || {
            if let Some(shared) = shared.upgrade() {
                shared.members.lock().remove(id);
            }
        })
    }
}

impl<Out> Drop for Shared<Out> {
    fn drop(&mut self) {
        let list = self.members.lock().list();
        for session in sessions(&list) {
            self.key.remove_callback(&session);
        }
    }
}

impl<Out> Default for Group<Out> {
    fn default() -> Self {
        Self::with_settings(Settings::default())
    }
}

impl<Out> Clone for Group<Out> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<Out> fmt::Debug for Group<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("len", &self.len())
            .field("settings", &self.shared.settings)
            .finish()
    }
}
