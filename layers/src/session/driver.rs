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
//! assert_eq!(outgoing.into_message(), Some("hello"));
//! ```

use std::{
    fmt,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Session,
    error::SendFailure,
    outbox::{Batch, DROPPING, Queued, TicketId, watched_number},
    payload::Weigh,
    signal::Signal,
};
pub use super::{
    payload::Payload,
    shared::{CodecId, SharedMessage},
};
pub use crate::connection::{Hold, Lease};
use crate::message::{Request, lent};
use crate::{
    budget::{self, MemoryBudget},
    connection::{CloseReason, ConnectionHandle, Kept, SharedError, checks::Checks, contain},
};

/// How many messages wait for the encoder at most, unless [`Driver::set_queue_capacity`] says otherwise.
pub const DEFAULT_QUEUE_CAPACITY: u32 = 64;

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
        unreported: false,
        blocked: false,
        ping: false,
        held: false,
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
    /// The outbox believes that more of the batch is left than is.
    unreported: bool,
    /// What the outbox believes of the write buffer.
    blocked: bool,
    ping: bool,
    held: bool,
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
}

impl<Out> Default for Rare<Out> {
    fn default() -> Self {
        Self {
            memory: None,
            wishes: Wishes::default(),
        }
    }
}

/// What is held for sending, as a budget knows it.
#[derive(Debug)]
struct Memory<Out> {
    budget: Option<MemoryBudget>,
    weigh: Option<Weigh<Out>>,
    /// How many bytes of the write buffer the budget knows of.
    charged: usize,
    /// Messages have left the queue that the budget believes there.
    uncharged: bool,
}

impl<Out> Default for Memory<Out> {
    fn default() -> Self {
        Self {
            budget: None,
            weigh: None,
            charged: 0,
            uncharged: false,
        }
    }
}

/// What layers have asked of a driver.
#[derive(Debug, Default)]
struct Wishes {
    checks: Checks,
    write_timeout: Option<Option<Duration>>,
    /// Dropped when nothing more will be received.
    until_input_ends: Vec<Box<dyn Kept>>,
}

/// What to send, and whom to tell of its outcome.
#[derive(Debug)]
pub struct Outgoing<Out> {
    /// What to send.
    pub payload: Payload<Out>,
    /// There is one when a sender waits for the outcome; give it to [`Driver::complete`] or [`Driver::fail`].
    pub ticket: Option<Ticket>,
}

impl<Out> Outgoing<Out> {
    /// The message, where it is one of this session alone.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        self.payload.into_message()
    }
}

impl<Out> From<Queued<Out>> for Outgoing<Out> {
    fn from(Queued { payload, attention }: Queued<Out>) -> Self {
        Self {
            payload,
            ticket: attention.ticket().map(Ticket),
        }
    }
}

/// Names a send whose caller waits for its outcome. Dropped, the caller waits until the driver is dropped.
#[derive(Debug)]
#[must_use = "the sender waits for this outcome"]
pub struct Ticket(TicketId);

impl Ticket {
    /// Whether the sender waits for this outcome alone, and may give up and ask whether it has [begun](Driver::begun). A
    /// request's does not: it waits for the answer.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        watched_number(self.0).is_none()
    }
}

/// A time as the activity marks of one session keep it: made once a turn, by [`Driver::moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(crate) u64);

impl<Out> Driver<Out> {
    /// `now`, for the marks of activity.
    #[inline]
    pub fn moment(&self, now: Instant) -> Moment {
        self.handle.moment(now)
    }

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
        self.ping |= raised & Signal::PING != 0;
        if raised & Signal::WISHES != 0 {
            let new = self.handle.take_wishes();
            self.held = new.holds > 0;
            let wishes = &mut self.rare.get_or_insert_default().wishes;
            wishes.checks.extend(new.checks);
            wishes.write_timeout = new.write_timeout.or(wishes.write_timeout);
            wishes.until_input_ends.extend(new.until_input_ends);
            if self.input_ended {
                self.input_ended();
            }
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
        self.rare.as_ref()?.wishes.checks.next()
    }

    /// Runs the [checks](crate::ConnectionHandle::check_at) that are due.
    pub fn run_checks(&mut self, now: Instant) {
        // for checks that report it: kept up here, because keeping it up where messages move would cost each of them
        #[cfg(feature = "metrics")]
        self.handle.set_queued(self.session.queued());
        if let Some(rare) = &mut self.rare {
            rare.wishes.checks.run(&self.handle, now);
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
        self.rare.as_ref()?.wishes.write_timeout
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

    /// What to send next.
    #[inline]
    pub fn next_outgoing(&mut self) -> Option<Outgoing<Out>> {
        if self.left() > 0 {
            self.unreported = true;
        } else if self.raised {
            self.raised = false;
            let (first, counts) = self.session.outbox().take_first(&mut self.batch)?;
            self.unreported |= counts;
            return Some(first.into());
        }
        let next = self.batch.as_mut()?.pop_front()?;
        Some(next.into())
    }

    /// Tells the senders what room there is: whether the write buffer is above its high watermark, and that messages
    /// given out so far have been encoded. Cheap where nothing has changed. `true` when a sender that waits was woken.
    #[inline]
    pub fn settle(&mut self, blocked: bool) -> bool {
        if !self.unreported && blocked == self.blocked {
            return false;
        }
        self.report(blocked)
    }

    #[inline(never)]
    fn report(&mut self, blocked: bool) -> bool {
        if self.charged
            && let Some(memory) = self.rare.as_mut().and_then(|rare| rare.memory.as_mut())
        {
            memory.uncharged |= self.unreported;
        }
        self.unreported = false;
        if blocked != self.blocked {
            self.blocked = blocked;
            self.handle.mark_backpressured(blocked);
        }
        self.raised |= self.left() > 0;
        match &mut self.batch {
            Some(left) => self.session.outbox().report(left, blocked),
            None => self.session.outbox().report(&mut Batch::new(), blocked),
        }
    }

    /// The transport has taken bytes of this message, though not all of it or without a flush.
    pub fn begun(&mut self, ticket: &Ticket) {
        if ticket.is_awaited() {
            self.session.outbox().begun(ticket.0);
        }
    }

    /// A message was flushed; it took so many bytes.
    pub fn complete(&mut self, ticket: &Ticket, bytes: usize) {
        match watched_number(ticket.0) {
            Some(number) => self.session.watched().leave(number, self.input_ended),
            None => self.session.outbox().complete(ticket.0, Ok(bytes)),
        }
    }

    /// A message was refused by the codec.
    pub fn fail(&mut self, ticket: &Ticket, source: SharedError) {
        if let Some(number) = watched_number(ticket.0) {
            let kept = self.rare.iter_mut();
            kept.flat_map(|rare| &mut rare.wishes.until_input_ends)
                .for_each(|kept| kept.refused(number));
        }
        self.failed(ticket, SendFailure::Encode(source));
    }

    #[cold]
    fn failed(&self, ticket: &Ticket, failure: SendFailure<Out>) {
        match watched_number(ticket.0) {
            Some(number) => self.session.watched().fail(number, failure),
            None => self.session.outbox().complete(ticket.0, Err(failure)),
        }
    }

    /// So many encoded bytes wait for the transport; to be told at the end of a turn.
    #[inline]
    pub fn pending(&self, bytes: usize) {
        self.handle.set_pending(bytes);
    }

    /// Our direction has ended, as a [`Payload::Finish`] asked.
    pub fn finished(&mut self, ticket: &Ticket) {
        self.handle.mark_finished();
        self.complete(ticket, 0);
    }

    /// A [`Payload::Finish`] asked for what the transport cannot do: messages are taken again.
    pub fn cannot_finish(&mut self, ticket: &Ticket) {
        let outbox = self.session.outbox();
        outbox.reopen();
        outbox.complete(ticket.0, Err(SendFailure::Unsupported));
    }

    /// Whether the close waits for the flush without a deadline: see
    /// [`close_after_flush`](crate::ConnectionHandle::close_after_flush).
    pub fn closes_after_flush(&self) -> bool {
        self.handle.closes_after_flush()
    }

    /// So many messages were dropped that were to be sent.
    pub fn dropped(&self, messages: u64) {
        self.handle.count_dropped(messages);
    }

    /// Has what the session holds for sending charged to `budget`.
    pub fn set_memory_budget(&mut self, budget: MemoryBudget) {
        self.charged = true;
        let rare = self.rare.get_or_insert_default();
        let memory = rare.memory.get_or_insert_default();
        memory.budget = Some(budget.clone());
        let (id, outbox) = (self.session.id(), self.session.outbox());
        outbox.set_budget(budget, id, memory.weigh);
    }

    /// How many bytes a message holds beyond its own size, for a budget that is set later.
    pub fn set_weight(&mut self, weigh: fn(&Out) -> usize) {
        let rare = self.rare.get_or_insert_default();
        rare.memory.get_or_insert_default().weigh = Some(weigh);
    }

    /// Charges the bytes that wait in the write buffer to the budget, where there is one; to be told at the end of a turn.
    #[inline]
    pub fn charge_written(&mut self, bytes: usize) {
        if self.charged
            && let Some(memory) = self.rare.as_mut().and_then(|rare| rare.memory.as_mut())
            && (memory.uncharged || budget::is_other_block(memory.charged, bytes))
        {
            memory.charged = bytes;
            memory.uncharged = false;
            self.session.outbox().charge_written(bytes);
        }
    }

    fn budget(&self) -> Option<&MemoryBudget> {
        self.rare.as_ref()?.memory.as_ref()?.budget.as_ref()
    }

    /// Whether there is a budget and it is used up: then nothing is to be added to what waits already.
    #[inline]
    pub fn is_out_of_memory(&self) -> bool {
        self.charged && self.budget().is_some_and(MemoryBudget::is_used_up)
    }

    /// Has `cx` woken when a budget that is used up has room again. `false` if there is room now.
    pub fn wait_for_memory(&self, cx: &Context<'_>) -> bool {
        let id = self.session.id();
        self.budget().is_some_and(|budget| budget.wait(id, cx))
    }

    /// A message was encoded, and the transport sends nothing more.
    pub fn cannot_send(&mut self, ticket: &Ticket, source: SharedError) {
        self.failed(ticket, SendFailure::Io(source));
    }

    /// How many messages may wait for the encoder.
    pub fn set_queue_capacity(&mut self, messages: u32) {
        self.session.outbox().set_capacity(messages.max(1));
    }

    /// No new message is taken from here on; what was taken may still be sent.
    pub fn close_queue(&mut self) {
        self.session.outbox().close();
        self.raised = true;
        self.input_ended();
    }

    /// Nothing more will be received: the peer has ended its direction and all of it is decoded. That the session closes
    /// says [`close_queue`](Self::close_queue). Drops what layers have asked to be
    /// [kept until then](crate::ConnectionHandle::keep_until_input_ends).
    pub fn input_ended(&mut self) {
        self.input_ended = true;
        let kept = self.rare.iter_mut();
        for value in kept.flat_map(|rare| std::mem::take(&mut rare.wishes.until_input_ends)) {
            contain("dropping what was kept until the input ended", || {
                drop(value);
            });
        }
    }

    /// The drain deadline that the close was requested with, instead of the session's own.
    pub fn requested_deadline(&self) -> Option<Duration> {
        self.handle.requested_deadline()
    }

    /// Adds an error to a close that was recorded without one.
    pub fn note_source(&mut self, source: SharedError) {
        self.handle.note_source(source);
    }

    /// So many bytes were received.
    #[inline]
    pub fn received(&self, bytes: usize, now: Moment) {
        let handle = &self.handle;
        handle.counters().bytes_in.add(bytes as u64);
        handle.marks().read.set(now);
    }

    /// The transport took so many bytes.
    #[inline]
    pub fn sent(&self, bytes: u64, now: Moment) {
        let handle = &self.handle;
        handle.counters().bytes_out.add(bytes);
        handle.marks().write.set(now);
    }

    /// So many messages were decoded. That is activity, unless a layer [says](Self::take_activity) which messages are.
    #[inline]
    pub fn messages_in(&self, messages: u64, now: Moment) {
        let handle = &self.handle;
        handle.counters().messages_in.add(messages);
        if handle.activity().is_every_message() {
            handle.marks().active.set(now);
        }
    }

    /// Whether [`ActiveLayer`](crate::ActiveLayer) has seen a message that is activity since the last time. To be asked
    /// after the handlers were called, and followed by [`active`](Self::active).
    #[inline]
    pub fn take_activity(&self) -> bool {
        self.handle.activity().take()
    }

    /// The application is active.
    #[inline]
    pub fn active(&self, now: Moment) {
        self.handle.marks().active.set(now);
    }

    /// So many messages are with their handlers now. `true` if they are fewer than before: then
    /// [`answered`](Self::answered) is to be told.
    #[inline]
    pub fn in_flight(&self, messages: usize) -> bool {
        let before = self.handle.in_flight();
        if before != messages {
            self.handle.set_in_flight(messages);
        }
        before > messages
    }

    /// A handler in flight has finished.
    pub fn answered(&self, now: Moment) {
        self.handle.marks().answered.set(now);
    }

    /// So many messages were encoded.
    #[inline]
    pub fn messages_out(&self, messages: u64) {
        self.handle.counters().messages_out.add(messages);
    }

    /// A message was skipped.
    pub fn skipped(&self) {
        self.handle.count_skipped(1);
    }

    /// The transport lost so many messages before they could be read; they count as skipped.
    pub fn lost(&self, messages: u64) {
        self.handle.count_skipped(messages);
    }

    /// The transport is read, or is not for now; to be called when that changes.
    #[cold]
    pub fn reading(&self, reads: bool, now: Moment) {
        let resumed = &self.handle.marks().resumed;
        if reads {
            resumed.set(now);
        } else {
            resumed.clear();
        }
    }

    /// Whether the handle says that the transport is read.
    #[inline]
    pub fn is_reading(&self) -> bool {
        self.handle.marks().resumed.get_if_set().is_some()
    }

    /// A frame is incomplete since `since`, or none is any more; to be called when that changes.
    #[inline]
    pub fn incomplete(&self, since: Option<Moment>) {
        let incomplete = &self.handle.marks().incomplete;
        match since {
            Some(since) => incomplete.set(since),
            None => incomplete.clear(),
        }
    }

    /// Whether the handle says that a frame is incomplete: an adapter of the codec may have completed it unseen.
    #[inline]
    pub fn is_incomplete(&self) -> bool {
        self.handle.marks().incomplete.get_if_set().is_some()
    }

    /// The transport takes nothing since `since` although something waits, or nothing waits any more; to be called when
    /// that changes.
    #[cold]
    pub fn stalled(&self, since: Option<Moment>) {
        let stalled = &self.handle.marks().stalled;
        match since {
            Some(since) => stalled.set(since),
            None => stalled.clear(),
        }
    }

    /// Whether the handle says that the transport takes nothing.
    #[inline]
    pub fn is_stalled(&self) -> bool {
        self.handle.marks().stalled.get_if_set().is_some()
    }

    /// The transport has a ping of its own.
    pub fn has_ping(&self) {
        self.handle.mark_has_ping();
    }

    /// The peer has ended its direction.
    pub fn peer_finished(&self) {
        self.handle.mark_peer_finished();
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
        let left = self.batch.take().map(|batch| *batch).unwrap_or_default();
        let outbox = self.session.outbox();
        let watched = outbox.fail_all(left, |payload| match (&io, payload) {
            (Some(source), None) => SendFailure::Io(source.clone()),
            (_, payload) => SendFailure::Closed(payload),
        });
        for (number, payload) in watched {
            let failure = SendFailure::Closed(Some(payload));
            // as in the outbox: where nobody asks for it any more, this drops it
            contain(DROPPING, || self.session.watched().fail(number, failure));
        }
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
