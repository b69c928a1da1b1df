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
//!   [`feed`](crate::Session::feed).
//!
//! Scope: process, or whatever shares the group.
//!
//! # Room
//!
//! A member has room as long as it reads: a queue may be longer than
//! [`with_queue`](https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue) says by messages that are
//! broadcast, for these are there once for all, as long as its session's write buffer is below the high watermark. What
//! is broadcast in one go, before sessions have had their turn to write, is so no reason to drop any of it, up to 1024
//! messages or, going by what the session has sent until now, 1 MiB. A broadcast takes units of tokio's cooperative
//! budget as well, so that a task that makes one after another gives way to those who have to write them at its next
//! `await`.
//!
//! ```
//! use getty_layers::{Connection, Group, SlowConsumer, driver};
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
mod topics;

use std::{fmt, sync::Arc};

pub use self::{deliver::Broadcasting, report::Report, topics::Topics};
use self::{
    deliver::{Broadcast, Notice},
    members::{Member, Members, Token, sessions},
};
use crate::{ConnectionHandle, Session, SlowConsumer, sync::Mutex};

/// Many sessions, to all of which one message is sent at once; see the [module](self). Clones share them.
///
/// A lock guards the list of members. It is held for a moment when somebody joins or leaves, or a broadcast begins; never
/// while messages are queued, and no code of anybody else's runs under it. So members may join, leave and broadcast in
/// handlers and close callbacks, and whoever leaves during a broadcast may still get its message.
pub struct Group<Out>(Arc<Inner<Out>>);

struct Inner<Out> {
    members: Mutex<Members<Out>>,
    token: Token,
    settings: Settings<Out>,
}

/// What a group, and all topics, do with a member that is slow.
struct Settings<Out> {
    policy: SlowConsumer,
    notice: Option<Notice<Out>>,
}
