//! Many sessions under one name: a message for all of them is encoded once, and waits in each one's own queue.
//!
//! A [`Group`] is one such set of sessions; [`Topics`] are many of them, by key: rooms of a chat, shards of a game,
//! symbols of a feed.
//!
//! - *Membership* ends with the session, whatever ends it: a close callback takes it out, when its transport is gone. A
//!   group keeps no session alive, and a session no group.
//! - *A broadcast* puts one message into the queues of all members, by reference, and reports how that went. It never
//!   waits, unless it is asked to with [`broadcast_and_wait`](Group::broadcast_and_wait), and so can be made anywhere:
//!   in a handler, in a close callback, under a lock of the application's.
//! - *Encoding* is done by the first session that comes to write the message, and what it made is what all sessions
//!   write whose codec is configured alike: those of the same [`CodecLayer`](crate::CodecLayer) and its clones. That
//!   presumes that the codec makes the same bytes of the same message for each of them. One that does not, because it
//!   numbers messages or compresses with a window that goes on, says so with
//!   [`with_shared_encodings(false)`](crate::CodecLayer::with_shared_encodings), and each session encodes for itself.
//!   Members that write several protocols may share a group: each protocol encodes once.
//! - *Order*: what one task sends, to groups or to a session alone, arrives in that order at each member that it reaches.
//!   Broadcasts of several tasks may arrive in one order here and in another there.
//! - *Slow members* are each dealt with by their own [`SlowConsumer`], and nobody else notices them. A message that the
//!   codec refuses has the consequences that it has for each of the sessions: see
//!   [`feed`](getty_core::Session::feed).
//!
//! Scope: process, or whatever shares the group.
//!
//! # Room
//!
//! The room of a member is counted in bytes. Its queue accepts broadcasts up to
//! [`SessionLayer::with_queue_bytes`](https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue_bytes),
//! 1 MiB by default, independent of its write buffer. Each broadcast counts as its size and 32
//! bytes. So a member loses nothing from a burst of 27,000 messages of 6 bytes, or 990 messages of
//! 1 KiB, even if its session is not polled meanwhile. A message that exceeds the bound alone is
//! queued while no other waits. The bound also holds for a member that reads nothing.
//!
//! The bound of a session's own messages is a number of messages. Broadcasts take places of the
//! queue only while no [`send`](getty_core::Session::send) waits for one.
//!
//! The size of a message is known for types of bytes and text such as `String` and `Bytes`. For
//! other types it is known with [`CodecLayer::with_weight`](crate::CodecLayer::with_weight), or
//! once a session has encoded the message. Otherwise the mean of the messages that the member's
//! session has encoded is assumed. All members share the messages, so a
//! [`MemoryBudget`](getty_core::MemoryBudget) counts the entries alone.
//!
//! | publisher | at the bound of a member |
//! |---|---|
//! | [`broadcast`](Group::broadcast), anywhere | the member's policy: a loss is counted in the [`Report`] and in [`Stats::dropped`](getty_core::Stats::dropped) |
//! | [`broadcast_and_wait`](Group::broadcast_and_wait), outside handlers | waits for members that joined with [`SlowConsumer::Wait`], and loses nothing for them |
//! | the same in a handler | as a [`feed`](getty_core::Session::feed) in a handler, which is in flight meanwhile |
//!
//! A publisher on another thread is at most the byte bound ahead of a member. While publishers wait
//! for a member, `broadcast` may use half of the bound, and the waiting publishers the rest.
//!
//! A broadcast also takes of tokio's cooperative budget, so that a session that broadcasts what its peer sends, and a
//! task that does so and awaits now and then, give way to those that are to write it. A loop that never awaits does not:
//! there, [`broadcast_and_wait`](Group::broadcast_and_wait) is what yields.
//!
//! # Example
//!
//! ```
//! use getty_core::{Connection, SlowConsumer, driver};
//! use getty_layers::Group;
//!
//! let lobby: Group<String> = Group::new();
//!
//! // sessions without a socket, as tests make them
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
//! drop(connections); // which ends the sessions, and with them their membership
//! assert!(lobby.is_empty());
//! ```

mod deliver;
mod members;
mod report;
mod settings;
mod topics;

use std::{fmt, sync::Arc};

use getty_core::{ConnectionHandle, Session, SlowConsumer, sync::Mutex};

use self::{
    deliver::Broadcast,
    members::{Member, Members, Token, sessions},
    settings::Settings,
};
pub use self::{deliver::Broadcasting, report::Report, topics::Topics};

/// Many sessions, to all of which one message is sent at once; see the [module](self). Clones share them.
///
/// A lock guards the list of members. It is held for a moment when somebody joins or leaves, or a broadcast begins; never
/// while messages are queued, and no code of anybody else's runs under it. So members may join, leave and broadcast in
/// handlers and close callbacks, and whoever leaves during a broadcast may still get its message.
///
/// Joining and leaving take constant time for any number of members, and of groups of a session.
/// Each group adds a close callback to each of its sessions. [`Topics`] add one for all topics, for
/// sessions that are in very many.
pub struct Group<Out> {
    shared: Arc<Shared<Out>>,
    settings: Settings<Out>,
}

struct Shared<Out> {
    members: Mutex<Members<Out>>,
    token: Token,
}

impl<Out> Group<Out> {
    /// A group without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is done with a member that is slow, where it does not [join with](Self::join_with) a policy of its own.
    /// [`SlowConsumer::DropNewest`] by default: it misses messages. Scope: those that join through this handle and its
    /// clones.
    #[must_use]
    pub const fn with_policy(mut self, policy: SlowConsumer) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Tells members what they have missed: as soon as there is room again for one of which messages were dropped, `notice`
    /// is called with their number, and what it makes is sent before the next broadcast. None by default. Scope: what is
    /// joined and broadcast through this handle and its clones.
    #[must_use]
    pub fn with_notice(mut self, notice: impl Fn(u64) -> Out + Send + Sync + 'static) -> Self {
        self.settings.notice = Some(Arc::new(notice));
        self
    }

    /// How many members there are. A session that closes is one until its transport is gone.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.members.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `session` is a member.
    #[must_use]
    pub fn contains(&self, session: &ConnectionHandle) -> bool {
        self.shared.members.lock().contains(session.id())
    }

    /// Those that are members now, in no particular order.
    #[must_use]
    pub fn members(&self) -> Vec<Session<Out>> {
        let list = self.shared.members.lock().list();
        sessions(&list)
    }

    /// Takes `session` out. `false` if it was not in.
    pub fn leave(&self, session: &ConnectionHandle) -> bool {
        // in this order, or one that joins again meanwhile would be left without its callback
        self.shared.token.forget(session);
        self.shared.members.lock().remove(session.id())
    }

    /// Queues `message` with all members, without waiting for any.
    ///
    /// Where a member has no room its policy decides; one that is to be waited for misses the message, as there is nobody
    /// here to wait.
    pub fn broadcast(&self, message: Out) -> Report
    where
        Out: Clone,
    {
        self.begin(message).now()
    }

    /// As [`broadcast`](Self::broadcast), to all but `sender`, which need not be a member.
    pub fn broadcast_except(&self, sender: &ConnectionHandle, message: Out) -> Report
    where
        Out: Clone,
    {
        self.begin(message).except(sender).now()
    }

    /// As [`broadcast`](Self::broadcast), but waits for room with those members whose policy is
    /// [`SlowConsumer::Wait`]. All others have been seen to by then, and are not held up. Sessions that end are no longer
    /// waited for; by default a peer that reads nothing is closed by the write timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it was polled it sends nothing. Dropped later, those that were still waited for do not get the
    /// message; all others do.
    pub fn broadcast_and_wait(&self, message: Out) -> Broadcasting<Out>
    where
        Out: Clone,
    {
        Broadcasting::new(self.begin(message))
    }

    fn begin(&self, message: Out) -> Broadcast<Out>
    where
        Out: Clone,
    {
        let members = self.shared.members.lock().present();
        Broadcast::new(members, message, &self.settings)
    }
}

impl<Out: Send + 'static> Group<Out> {
    /// Takes `session` in, until it leaves or closes. `false` if it was in already, and then nothing changes, or has
    /// closed.
    pub fn join(&self, session: &Session<Out>) -> bool {
        self.enter(session, None)
    }

    /// As [`join`](Self::join), with what is done while this member is slow. For one that was in already that is changed.
    pub fn join_with(&self, session: &Session<Out>, policy: SlowConsumer) -> bool {
        self.enter(session, Some(policy))
    }

    fn enter(&self, session: &Session<Out>, policy: Option<SlowConsumer>) -> bool {
        let member = Member::new(session, &self.settings, policy);
        let weigh = session.weigh();
        let mut members = self.shared.members.lock();
        let joined = members.weigh(weigh).insert(member, policy);
        drop(members);
        if !joined {
            return false;
        }
        let (id, shared) = (session.id(), Arc::downgrade(&self.shared));
        // outside of the lock, because on a session that has closed already it is called right here
        self.shared.token.leave_at_close(session, move || {
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
            self.token.forget(&session);
        }
    }
}

impl<Out> Default for Group<Out> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                members: Mutex::default(),
                token: Token::unique(),
            }),
            settings: Settings::default(),
        }
    }
}

impl<Out> Clone for Group<Out> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            settings: self.settings.clone(),
        }
    }
}

impl<Out> fmt::Debug for Group<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("len", &self.len())
            .field("settings", &self.settings)
            .finish()
    }
}
