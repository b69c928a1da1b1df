//! What the requests of one session share.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    ConnectionHandle,
    connection::{CloseReason, Kept},
    correlate::{
        matching::Answered,
        matching::Matching,
        table::{Limits, Observer, Overdue, Table, Unasked},
    },
    session::{Number, PendingRequests},
};

/// Maximum time without an answer while requests that were given up take all places. A layer's
/// shorter deadline replaces it.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the requests of one session share: an attribute of its handle.
pub struct Shared<In, Out> {
    pub(crate) table: Table<In>,
    pub(crate) matching: Arc<dyn Matching<In, Out>>,
    pub(crate) deadline: Option<Duration>,
    /// [`watch_full`], for destructors, which have no bounds on the messages.
    pub(crate) watch_full: fn(&Arc<Self>, &ConnectionHandle, Number),
}

/// Schedules checks of a table that is full of requests that were given up. `oldest` is the oldest
/// request. The session closes when the peer answers none between two checks.
#[cold]
fn watch_full<In: Send + 'static, Out: 'static>(
    shared: &Arc<Shared<In, Out>>,
    handle: &ConnectionHandle,
    mut oldest: Number,
) {
    let shared = Arc::clone(shared);
    let deadline = shared.deadline.unwrap_or(FULL_TIMEOUT);
    let timeout = deadline.min(FULL_TIMEOUT);
    handle.check_at(Instant::now() + timeout, move |handle, now| {
        match shared.table.look_full(&mut oldest) {
            Ok(again) => again.then(|| now + timeout),
            Err(Overdue) => {
                handle.close_with(CloseReason::AnswerMissed);
                None
            }
        }
    });
}

impl Observer for &ConnectionHandle {
    fn set_awaits(&self, awaits: bool) {
        self.set_awaits_answers(awaits);
    }

    fn set_given_up(&self, requests: usize) {
        self.set_given_up_requests(requests);
    }
}

impl<In, Out> fmt::Debug for Shared<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<In, Out> Shared<In, Out> {
    /// Gives `message` to the request that it answers. Returns the message if no request waits for
    /// it and it is not late.
    #[inline]
    pub fn answer(&self, which: Answered, message: In, handle: &ConnectionHandle) -> Option<In> {
        match self.table.answer(which, message, handle) {
            Ok(()) => handle.answered(false),
            Err(Unasked::Late(_)) => handle.answered(true),
            Err(Unasked::Push(message)) => return Some(message),
        }
        None
    }
}

impl<In: Send + 'static, Out: 'static> Shared<In, Out> {
    /// Creates the state for the requests of one session.
    pub fn new(
        limits: Limits,
        matching: impl Matching<In, Out>,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            table: Table::new(limits),
            matching: Arc::new(matching),
            deadline,
            watch_full,
        }
    }
}

impl<In: Send + 'static, Out: 'static> Shared<In, Out> {
    /// Has the driver tell of what it could not encode from the first request on: by the time that this is asked for, it may
    /// have been too late for that one.
    pub fn guard(self: &Arc<Self>, handle: &ConnectionHandle) {
        self.table.guarded();
        handle.keep(InputGuard(Arc::clone(self)));
    }
}

/// Woken for a message that cannot be sent. All requests are woken, because the message's request
/// is not known.
impl<In: Send + 'static, Out: 'static> PendingRequests for Shared<In, Out> {
    fn wake_all(&self) {
        self.table.wake_all();
    }

    fn unanswered(&self) -> usize {
        self.table.in_flight()
    }
}

/// Kept by the driver; its drop says that nothing more will be received.
pub(crate) struct InputGuard<In, Out>(pub(super) Arc<Shared<In, Out>>);

impl<In: Send, Out> Kept for InputGuard<In, Out> {
    /// The peer does not answer what it was not asked. Known here before the next message is received, when the one who
    /// asked may not have looked, or have given up.
    fn refused(&mut self, number: Number, handle: &ConnectionHandle) {
        self.0.table.refused(number, handle);
    }
}

impl<In, Out> Drop for InputGuard<In, Out> {
    fn drop(&mut self) {
        self.0.table.input_ended();
    }
}
