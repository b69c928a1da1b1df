//! The driver half of a session for test kits.
//!
//! [`Session`] and [`Driver`] are a pair like the two ends of a channel. `CodecLayer` creates
//! the pair with [`pair`] and the session loop polls the driver. Applications do not need this
//! module (design.md: Why is the driver's half of a session hidden?). Only the methods that a
//! test kit needs are documented. It can create a pair without a transport:
//!
//! ```
//! use getty_core::{Connection, driver};
//! use std::task::{Context, Waker};
//!
//! let connection = Connection::new(());
//! let (session, mut driver) = driver::pair::<&str>(connection.handle().clone());
//! session.try_send("hello").unwrap();
//!
//! driver.register(&Context::from_waker(Waker::noop()));
//! let outgoing = driver.next_outgoing().unwrap();
//! assert_eq!(outgoing.into_message(), Some("hello"));
//! ```
//!
//! In each poll, a test kit must call:
//!
//! 1. [`Driver::register`], which registers the task's waker, and [`Driver::run_checks`] if it
//!    returns `true`;
//! 2. [`Driver::next_outgoing`] until it returns `None`, to encode messages;
//! 3. [`Driver::complete`] or [`Driver::fail`] for each [`Ticket`] whose message was flushed
//!    or refused;
//! 4. [`Driver::set_backpressure`] so that senders see the room in the queue.

mod budget;
mod hooks;
mod outgoing;
mod records;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

pub use self::outgoing::{Outgoing, Ticket};
use self::{budget::BudgetState, hooks::DriverHooks};
#[doc(hidden)]
pub use super::current::CurrentSession;
pub use super::payload::{CodecId, Payload, SharedForm, SharedMessage};
use super::{
    Session,
    outbox::{Batch, DEFAULT_BOUND},
};
pub use crate::connection::CloseGuard;
#[doc(hidden)]
pub use crate::connection::Timestamp;
use crate::{
    connection::{CloseReason, ConnectionHandle, SharedError},
    session::session_ref,
    sync::{Lazy, Signal},
};

/// Default maximum number of messages that wait for the encoder.
/// [`Driver::set_queue_capacity`] sets another.
// (design.md: Why is the queue bounded in messages and the write buffer in bytes?)
pub const DEFAULT_QUEUE_CAPACITY: u32 = 64;

/// Default maximum size of the broadcasts that wait for the encoder, in bytes: 1 MiB.
/// `Driver::set_queue_bytes` sets another.
///
/// Each message counts as its size and 32 bytes. A message that exceeds the limit alone is
/// queued while no other waits.
#[doc(hidden)]
pub const DEFAULT_QUEUE_BYTES: usize = DEFAULT_BOUND as usize;

/// Creates a session and its driver half over `handle`.
///
/// Must be called at most once for each connection because the handle wakes a single driver.
#[must_use]
pub fn pair<Out>(handle: ConnectionHandle) -> (Session<Out>, Driver<Out>) {
    let session = Session::new(handle.clone(), DEFAULT_QUEUE_CAPACITY);
    let driver = Driver {
        session: Arc::new(session.clone()),
        waker: None,
        batch: Lazy::new(),
        raised: false,
        has_shared: false,
        unreported: false,
        blocked: false,
        own: false,
        ping: false,
        input_ended: false,
        charged: false,
        ext: Lazy::new(),
        handle,
    };
    (session, driver)
}

/// Driver half of a session: outgoing messages and their outcomes, close requests, timestamps.
///
/// When it is dropped, it fails the messages that were not sent, and records a reason as
/// [`CloseGuard`] does.
pub struct Driver<Out> {
    /// Shared with the requests that refer to it.
    session: Arc<Session<Out>>,
    /// Copy of the waker that senders use.
    waker: Option<Waker>,
    /// Messages taken from the outbox and not encoded yet.
    batch: Lazy<Batch<Out>>,
    /// `true` if the outbox may have more messages.
    raised: bool,
    /// `true` if the batch has broadcasts: its entries may be bursts.
    has_shared: bool,
    /// `true` if the outbox counts messages of the batch that were returned since.
    unreported: bool,
    /// `true` if the outbox was last reported to accept nothing.
    blocked: bool,
    /// `true` if handlers of this session have queued messages that are not encoded yet.
    own: bool,
    ping: bool,
    /// `true` once the input has ended.
    input_ended: bool,
    /// `true` if there is a budget to charge.
    charged: bool,
    /// State that few sessions have.
    ext: Lazy<DriverExt<Out>>,
    /// The session's handle. A separate copy because each timestamp is set through it and the
    /// session would add two pointers.
    handle: ConnectionHandle,
}

/// State that few sessions have.
struct DriverExt<Out> {
    /// The memory budget if there is one.
    budget: Lazy<BudgetState<Out>>,
    /// Hooks that layers have registered.
    hooks: DriverHooks,
    /// `true` while a layer delays the opening of the session.
    open_delayed: bool,
}

impl<Out> Default for DriverExt<Out> {
    fn default() -> Self {
        Self {
            budget: Lazy::new(),
            hooks: DriverHooks::default(),
            open_delayed: false,
        }
    }
}

impl<Out> Driver<Out> {
    /// Returns the session half.
    #[inline]
    #[must_use]
    pub fn session(&self) -> &Session<Out> {
        &self.session
    }

    /// Returns the untyped handle of the session.
    #[inline]
    #[must_use]
    pub const fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Returns the session that requests refer to.
    #[inline]
    pub(crate) const fn shared_session(&self) -> &Arc<Session<Out>> {
        &self.session
    }

    /// Registers the waker of `cx`, which is woken by every later send or request. Then polls for
    /// signals. Must be called first in each poll. Returns `true` as
    /// [`poll_signals`](Self::poll_signals) does.
    #[inline]
    pub fn register(&mut self, cx: &Context<'_>) -> bool {
        self.handle.signal().register(&mut self.waker, cx);
        self.poll_signals()
    }

    /// Marks this session as the one that the current thread polls until the guard is dropped.
    ///
    /// Messages that are queued meanwhile on this thread are [the handlers'
    /// own](Self::has_own_messages).
    #[inline]
    #[doc(hidden)]
    pub fn enter(&self) -> CurrentSession {
        CurrentSession::set(self.handle.id())
    }

    /// Polls for signals that were raised since the last call such as queued messages.
    ///
    /// Returns `true` if a setting of the session has changed: the caller must then call
    /// [`run_checks`](Self::run_checks).
    #[inline]
    pub fn poll_signals(&mut self) -> bool {
        let raised = self.handle.signal().take();
        raised != 0 && self.apply_signals(raised)
    }

    #[cold]
    fn apply_signals(&mut self, raised: u8) -> bool {
        self.session.requests().record_poll();
        self.raised |= raised & Signal::MESSAGES != 0;
        self.own |= raised & Signal::OWN != 0;
        self.ping |= raised & Signal::PING != 0;
        raised & Signal::LAYER_HOOKS != 0 && self.take_hooks()
    }

    /// Returns `true` if a signal was raised since the last [`poll_signals`](Self::poll_signals).
    #[inline]
    #[doc(hidden)]
    pub fn is_signalled(&self) -> bool {
        self.handle.signal().is_raised()
    }

    /// Returns `true` if the driver has nothing to do: nothing to send or report, no close, no
    /// ping, no activity to record.
    #[inline]
    #[doc(hidden)]
    pub fn is_idle(&self) -> bool {
        !self.has_outgoing() && !self.unreported && !self.ping && !self.charged && {
            let handle = &self.handle;
            !handle.signal().is_raised() && !handle.is_closing() && !handle.activity().is_seen()
        }
    }

    /// Returns `true` if the close waits for the flush without a deadline: see
    /// [`Close::after_flush`](crate::Close::after_flush).
    #[doc(hidden)]
    pub fn closes_after_flush(&self) -> bool {
        self.handle.closes_after_flush()
    }

    /// Returns the drain deadline of the close request, which replaces the session's.
    #[doc(hidden)]
    pub fn requested_deadline(&self) -> Option<Duration> {
        self.handle.requested_deadline()
    }

    /// Adds an error to a close that was recorded without one.
    #[doc(hidden)]
    pub fn add_source(&mut self, source: SharedError) {
        self.handle.add_source(source);
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
        self.session.requests().end();
        session_ref::forget(&self.session);
        // a handle may outlive the session, and must not keep the task's memory alive
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
