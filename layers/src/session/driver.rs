//! The driver half of a session: what the session loop polls.
//!
//! [`Session`] and [`Driver`] are a pair like a channel's two ends. `CodecLayer` makes it with [`pair`], the session
//! loop drives it. Test kits and loops of another kind may do the same:
//!
//! ```
//! use getty_layers::{Connection, driver};
//! use std::task::{Context, Waker};
//!
//! let connection = Connection::new(());
//! let (session, mut driver) = driver::pair::<&str>(connection.handle().clone());
//! session.try_send("hello").unwrap();
//!
//! driver.turn(&Context::from_waker(Waker::noop()));
//! let outgoing = driver.next_outgoing().unwrap();
//! assert_eq!(outgoing.message, "hello");
//! ```

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Session,
    outbox::{Queued, TicketId},
    send::SendFailure,
    signal::Signal,
};
use crate::connection::{CloseReason, SharedError, checks::Checks};
pub use crate::connection::{Hold, Lease};
use crate::message::{Request, lent};

/// How many messages wait for the encoder at most, unless [`Driver::set_queue_capacity`] says otherwise.
pub const DEFAULT_QUEUE_CAPACITY: u32 = 64;

/// Makes a session and its driver half over `handle`.
///
/// Once for each connection: it is the handle that wakes the driver, and it knows one.
#[must_use]
pub fn pair<Out>(handle: crate::ConnectionHandle) -> (Session<Out>, Driver<Out>) {
    let session = Session::new(handle, DEFAULT_QUEUE_CAPACITY);
    let driver = Driver {
        session: Arc::new(session.clone()),
        waker: None,
        batch: None,
        raised: false,
        unreported: false,
        blocked: false,
        ping: false,
        held: false,
        wishes: None,
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
    /// The outbox believes that more of the batch is left than is.
    unreported: bool,
    /// What the outbox believes of the write buffer.
    blocked: bool,
    ping: bool,
    held: bool,
    /// What layers have asked for, where any has.
    wishes: Option<Box<Wishes>>,
}

type Batch<Out> = VecDeque<Queued<Out>>;

/// What layers have asked of a driver.
#[derive(Debug, Default)]
struct Wishes {
    checks: Checks,
    write_timeout: Option<Option<Duration>>,
}

/// A message to encode, and whom to tell of its outcome.
#[derive(Debug)]
pub struct Outgoing<Out> {
    /// What to encode.
    pub message: Out,
    /// There is one when a sender waits for the outcome; give it to [`Driver::complete`] or [`Driver::fail`].
    pub ticket: Option<Ticket>,
}

/// Names a send whose caller waits for its outcome. Dropped, the caller waits until the driver is dropped.
#[derive(Debug)]
#[must_use = "the sender waits for this outcome"]
pub struct Ticket(TicketId);

/// A time as the activity marks of one session keep it: made once a turn, by [`Driver::moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(crate) u64);

impl<Out> Driver<Out> {
    /// `now`, for the marks of activity.
    #[inline]
    pub fn moment(&self, now: Instant) -> Moment {
        self.session.moment(now)
    }

    /// The other half.
    #[inline]
    pub fn session(&self) -> &Session<Out> {
        &self.session
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
        self.session.signal().register(&mut self.waker, cx);
        self.look();
    }

    /// Looks for messages that were queued since the turn began.
    #[inline]
    pub fn look(&mut self) {
        let raised = self.session.signal().take();
        if raised != 0 {
            self.take_notice(raised);
        }
    }

    #[cold]
    fn take_notice(&mut self, raised: u8) {
        self.raised |= raised & Signal::MESSAGES != 0;
        self.ping |= raised & Signal::PING != 0;
        if raised & Signal::WISHES != 0 {
            let new = self.session.take_wishes();
            self.held = new.holds > 0;
            let wishes = self.wishes.get_or_insert_default();
            wishes.checks.extend(new.checks);
            wishes.write_timeout = new.write_timeout.or(wishes.write_timeout);
        }
    }

    /// Whether a layer [holds](crate::ConnectionHandle::hold) the session back from opening.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// When to [`run_checks`](Self::run_checks) next.
    #[inline]
    pub fn next_check(&self) -> Option<Instant> {
        self.wishes.as_ref()?.checks.next()
    }

    /// Runs the [checks](crate::ConnectionHandle::check_at) that are due.
    pub fn run_checks(&mut self, now: Instant) {
        // for checks that report it: kept up here, because keeping it up where messages move would cost each of them
        #[cfg(feature = "metrics")]
        self.session.set_queued(self.session.queued());
        if let Some(wishes) = &mut self.wishes {
            wishes.checks.run(self.session.handle(), now);
        }
    }

    /// Whether the transport's own ping was asked for, and is yet to be sent.
    #[inline]
    pub const fn wants_ping(&self) -> bool {
        self.ping
    }

    /// The ping that was asked for is sent.
    pub const fn pinged(&mut self) {
        self.ping = false;
    }

    /// The write timeout that a layer has set: see [`set_write_timeout`](crate::ConnectionHandle::set_write_timeout).
    #[inline]
    pub fn write_timeout(&self) -> Option<Option<Duration>> {
        self.wishes.as_ref()?.write_timeout
    }

    /// Whether anything was sent or requested since the last [`look`](Self::look).
    #[inline]
    pub fn is_signalled(&self) -> bool {
        self.session.signal().is_raised()
    }

    /// Whether [`next_outgoing`](Self::next_outgoing) may give a message.
    #[inline]
    pub fn has_outgoing(&self) -> bool {
        self.raised || self.left() > 0
    }

    /// How many messages are taken and not encoded.
    #[inline]
    fn left(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.len())
    }

    /// The next message to encode.
    pub fn next_outgoing(&mut self) -> Option<Outgoing<Out>> {
        if self.left() == 0 && self.raised {
            self.raised = false;
            let batch = self.batch.get_or_insert_default();
            self.session.outbox().take(batch);
        }
        let Queued { message, ticket } = self.batch.as_mut()?.pop_front()?;
        self.unreported = true;
        Some(Outgoing {
            message,
            ticket: ticket.map(Ticket),
        })
    }

    /// Tells the senders what room there is: whether the write buffer is above its high watermark, and that messages
    /// taken so far have been encoded. Cheap where nothing has changed. `true` when a sender that waits was woken.
    #[inline]
    pub fn settle(&mut self, blocked: bool) -> bool {
        if !self.unreported && blocked == self.blocked {
            return false;
        }
        self.unreported = false;
        self.blocked = blocked;
        self.session.outbox().report(self.left(), blocked)
    }

    /// A message was flushed; it took so many bytes.
    pub fn complete(&mut self, ticket: &Ticket, bytes: usize) {
        self.session.outbox().complete(ticket.0, Ok(bytes));
    }

    /// A message was refused by the codec.
    pub fn fail(&mut self, ticket: &Ticket, source: SharedError) {
        self.session
            .outbox()
            .complete(ticket.0, Err(SendFailure::Encode(source)));
    }

    /// A message was encoded, and the transport sends nothing more.
    pub fn lost(&mut self, ticket: &Ticket, source: SharedError) {
        self.session
            .outbox()
            .complete(ticket.0, Err(SendFailure::Io(source)));
    }

    /// How many messages may wait for the encoder.
    pub fn set_queue_capacity(&mut self, messages: u32) {
        self.session.outbox().set_capacity(messages.max(1));
    }

    /// No new message is taken from here on; what was taken may still be sent.
    pub fn close_queue(&mut self) {
        self.session.outbox().close();
        self.raised = true;
    }

    /// The drain deadline that the close was requested with, instead of the session's own.
    pub fn requested_deadline(&self) -> Option<Duration> {
        self.session.requested_deadline()
    }

    /// Adds an error to a close that was recorded without one.
    pub fn note_source(&mut self, source: SharedError) {
        self.session.note_source(source);
    }

    /// So many bytes were received.
    #[inline]
    pub fn received(&self, bytes: usize, now: Moment) {
        self.session.counters().bytes_in.add(bytes as u64);
        self.session.marks().read.set(now);
    }

    /// The transport took so many bytes.
    #[inline]
    pub fn sent(&self, bytes: u64, now: Moment) {
        self.session.counters().bytes_out.add(bytes);
        self.session.marks().write.set(now);
    }

    /// So many messages were decoded. That is activity, unless a layer [says](Self::take_activity) which messages are.
    #[inline]
    pub fn messages_in(&self, messages: u64, now: Moment) {
        self.session.counters().messages_in.add(messages);
        if self.session.activity().is_every_message() {
            self.session.marks().active.set(now);
        }
    }

    /// Whether [`ActiveLayer`](crate::ActiveLayer) has seen a message that is activity since the last time. To be asked
    /// after the handlers were called, and followed by [`active`](Self::active).
    #[inline]
    pub fn take_activity(&self) -> bool {
        self.session.activity().take()
    }

    /// The application is active.
    #[inline]
    pub fn active(&self, now: Moment) {
        self.session.marks().active.set(now);
    }

    /// So many messages are with their handlers now. `true` if they are fewer than before: then
    /// [`answered`](Self::answered) is to be told.
    #[inline]
    pub fn in_flight(&self, messages: usize) -> bool {
        let before = self.session.in_flight();
        self.session.set_in_flight(messages);
        before > messages
    }

    /// A handler in flight has finished.
    pub fn answered(&self, now: Moment) {
        self.session.marks().answered.set(now);
    }

    /// So many messages were encoded.
    #[inline]
    pub fn messages_out(&self, messages: u64) {
        self.session.counters().messages_out.add(messages);
    }

    /// A message was skipped.
    pub fn skipped(&self) {
        self.session.counters().skipped.add(1);
    }

    /// The transport is read, or is not for now; to be called when that changes.
    #[cold]
    pub fn reading(&self, reads: bool, now: Moment) {
        let resumed = &self.session.marks().resumed;
        if reads {
            resumed.set(now);
        } else {
            resumed.clear();
        }
    }

    /// Whether the handle says that the transport is read.
    #[inline]
    pub fn is_reading(&self) -> bool {
        self.session.marks().resumed.get_if_set().is_some()
    }

    /// A frame is incomplete since `since`, or none is any more; to be called when that changes.
    #[inline]
    pub fn incomplete(&self, since: Option<Moment>) {
        let incomplete = &self.session.marks().incomplete;
        match since {
            Some(since) => incomplete.set(since),
            None => incomplete.clear(),
        }
    }

    /// Whether the handle says that a frame is incomplete: an adapter of the codec may have completed it unseen.
    #[inline]
    pub fn is_incomplete(&self) -> bool {
        self.session.marks().incomplete.get_if_set().is_some()
    }

    /// The transport takes nothing since `since` although something waits, or nothing waits any more; to be called when
    /// that changes.
    #[cold]
    pub fn stalled(&self, since: Option<Moment>) {
        let stalled = &self.session.marks().stalled;
        match since {
            Some(since) => stalled.set(since),
            None => stalled.clear(),
        }
    }

    /// Whether the handle says that the transport takes nothing.
    #[inline]
    pub fn is_stalled(&self) -> bool {
        self.session.marks().stalled.get_if_set().is_some()
    }

    /// The transport has a ping of its own.
    pub fn has_ping(&self) {
        self.session.mark_has_ping();
    }

    /// The peer has ended its direction.
    pub fn peer_finished(&self) {
        self.session.mark_peer_finished();
    }
}

impl<Out> Drop for Driver<Out> {
    fn drop(&mut self) {
        self.session.abandon();
        self.session.set_in_flight(0);
        let io = match self.session.reason() {
            Some(CloseReason::Io) => self.session.source(),
            _ => None,
        };
        let left = self.batch.take().map(|batch| *batch).unwrap_or_default();
        self.session
            .outbox()
            .fail_all(left, |message| match (&io, message) {
                (Some(source), None) => SendFailure::Io(source.clone()),
                (_, message) => SendFailure::Closed(message),
            });
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
