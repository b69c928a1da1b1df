//! The driver half of a session: what the session loop polls.
//!
//! [`Session`] and [`Driver`] are a pair like a channel's two ends. `CodecLayer` makes it with [`pair`], the session
//! loop drives it. Test kits and loops of another kind may do the same:
//!
//! ```
//! use getty_core::{Connection, driver};
//! use std::task::{Context, Waker};
//!
//! let connection = Connection::new(());
//! let (session, mut driver) = driver::pair::<&str>(connection.handle().clone());
//! session.try_send("hello").unwrap();
//!
//! driver.turn(&Context::from_waker(Waker::noop()));
//! let outgoing = driver.next_outgoing().unwrap();
//! assert_eq!(outgoing.into_message(), Some("hello"));
//! ```

mod marks;
mod memory;
mod outgoing;
mod wishes;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

pub use self::{
    marks::Moment,
    outgoing::{Outgoing, Ticket},
};
use self::{memory::Memory, wishes::Wishes};
use super::{
    Session,
    outbox::{Batch, DEFAULT_BOUND},
};
pub use super::{
    current::CurrentSession,
    payload::Payload,
    shared::{CodecId, SharedMessage},
};
pub use crate::connection::{Contained, Hold, Lease, defer_refusal, end_refusal};
use crate::{
    connection::{CloseReason, ConnectionHandle, SharedError},
    message::Request,
    session::lent,
    sync::Signal,
};

/// How many messages wait for the encoder at most, unless [`Driver::set_queue_capacity`] says otherwise.
pub const DEFAULT_QUEUE_CAPACITY: u32 = 64;

/// Default bound of the broadcasts that wait for the encoder, in bytes: 1 MiB.
/// [`Driver::set_queue_bytes`] sets another.
///
/// Each message counts as its size and 32 bytes. A message that exceeds the bound alone is queued
/// while no other waits.
pub const DEFAULT_QUEUE_BYTES: usize = DEFAULT_BOUND as usize;

/// Makes a session and its driver half over `handle`.
///
/// Once for each connection: it is the handle that wakes the driver, and it knows one.
#[must_use]
pub fn pair<Out>(handle: ConnectionHandle) -> (Session<Out>, Driver<Out>) {
    let session = Session::new(handle.clone(), DEFAULT_QUEUE_CAPACITY);
    let driver = Driver {
        session: Arc::new(session.clone()),
        waker: None,
        batch: None,
        raised: false,
        has_shared: false,
        unreported: false,
        blocked: false,
        own: false,
        ping: false,
        input_ended: false,
        charged: false,
        rare: None,
        handle,
    };
    (session, driver)
}

/// The driver half: outgoing messages and their outcomes, close requests, marks of activity.
///
/// Dropped, it fails what was not sent, and records a reason as [`Lease`] does.
pub struct Driver<Out> {
    /// Shared with the requests that it is lent to.
    session: Arc<Session<Out>>,
    /// Our copy of the waker that senders use.
    waker: Option<Waker>,
    /// Taken from the outbox, not encoded yet.
    batch: Option<Box<Batch<Out>>>,
    /// There may be more in the outbox.
    raised: bool,
    /// There are broadcasts in the batch: its entries may be bursts.
    has_shared: bool,
    /// The outbox believes that more of the batch is left than is.
    unreported: bool,
    /// `true` if the outbox was last reported to accept nothing.
    blocked: bool,
    /// Handlers of this session have queued messages that are not encoded yet.
    own: bool,
    ping: bool,
    /// Nothing more will be received.
    input_ended: bool,
    /// What is held for sending is charged to a budget.
    charged: bool,
    /// What few sessions have.
    rare: Option<Box<Rare<Out>>>,
    /// The session's: every mark that is set goes through it, and through the session it is three words away.
    handle: ConnectionHandle,
}

/// What few sessions have.
struct Rare<Out> {
    /// What is held for sending is charged here, where there is a budget.
    memory: Option<Box<Memory<Out>>>,
    /// What layers have asked for.
    wishes: Wishes,
    /// A layer delays the opening of the session.
    held: bool,
}

impl<Out> Default for Rare<Out> {
    fn default() -> Self {
        Self {
            memory: None,
            wishes: Wishes::default(),
            held: false,
        }
    }
}

impl<Out> Driver<Out> {
    /// The other half.
    #[inline]
    pub fn session(&self) -> &Session<Out> {
        &self.session
    }

    /// The untyped handle of the other half.
    #[inline]
    pub const fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// A request for `message`: as [`Request::new`], and without touching a reference count where the last request of
    /// the session was dropped on this thread.
    #[inline]
    pub fn request<In>(&self, message: In) -> Request<In, Out>
    where
        Out: Send + 'static,
    {
        Request::lent(message, &self.session)
    }

    #[cfg(all(test, not(getty_loom)))]
    pub(crate) const fn shared_session(&self) -> &Arc<Session<Out>> {
        &self.session
    }

    /// Begins a turn: whatever is sent or requested from here on wakes `cx`.
    #[inline]
    pub fn turn(&mut self, cx: &Context<'_>) {
        self.handle.signal().register(&mut self.waker, cx);
        self.look();
    }

    /// Marks this session as the one that the current thread polls, until the value is dropped:
    /// messages that are queued meanwhile on this thread are [its handlers'
    /// own](Self::has_own_messages).
    #[inline]
    pub fn enter(&self) -> CurrentSession {
        CurrentSession::set(self.handle.id())
    }

    /// Looks for messages that were queued since the turn began.
    #[inline]
    pub fn look(&mut self) {
        let raised = self.handle.signal().take();
        if raised != 0 {
            self.take_notice(raised);
        }
    }

    #[cold]
    fn take_notice(&mut self, raised: u8) {
        self.session.watched().turn();
        self.raised |= raised & Signal::MESSAGES != 0;
        self.own |= raised & Signal::OWN != 0;
        self.ping |= raised & Signal::PING != 0;
        if raised & Signal::WISHES != 0 {
            self.take_wishes();
        }
    }

    /// Whether anything was sent or requested since the last [`look`](Self::look).
    #[inline]
    pub fn is_signalled(&self) -> bool {
        self.handle.signal().is_raised()
    }

    /// Whether nothing is to be done here: nothing to send, to tell or to account for, no close, no ping, no mark to set.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        !self.has_outgoing() && !self.unreported && !self.ping && !self.charged && {
            let handle = &self.handle;
            !handle.signal().is_raised() && !handle.is_closing() && !handle.activity().is_seen()
        }
    }

    /// Whether the close waits for the flush without a deadline: see
    /// [`close_after_flush`](crate::ConnectionHandle::close_after_flush).
    pub fn closes_after_flush(&self) -> bool {
        self.handle.closes_after_flush()
    }

    /// The drain deadline that the close was requested with, instead of the session's own.
    pub fn requested_deadline(&self) -> Option<Duration> {
        self.handle.requested_deadline()
    }

    /// Adds an error to a close that was recorded without one.
    pub fn note_source(&mut self, source: SharedError) {
        self.handle.note_source(source);
    }
}

impl<Out> Drop for Driver<Out> {
    fn drop(&mut self) {
        self.session.abandon();
        self.session.set_in_flight(0);
        self.session.set_pending(0);
        if self.blocked {
            self.session.mark_backpressured(false);
        }
        let io = match self.session.reason() {
            Some(CloseReason::Io) => self.session.source(),
            _ => None,
        };
        self.fail_queued(io.as_ref());
        self.session.watched().end();
        lent::forget(&self.session);
        // a handle may be kept for long after: it must not keep our task's memory, too
        self.session.signal().forget();
    }
}

impl<Out> fmt::Debug for Driver<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
