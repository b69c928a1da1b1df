//! State of the requests of one session.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    connection::{CloseReason, ConnectionHandle, HandleExt, OnInputEnd, RequestNumber},
    correlate::{
        matching::Matching,
        matching::ResponseTo,
        table::{Limits, Observer, Overdue, RequestTable, Unsolicited},
    },
    session::PendingRequests,
};

/// Maximum time without a response while abandoned requests fill the table. A shorter deadline
/// of the layer replaces it.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);

/// State of the requests of one session. It is an attribute of the session's handle.
pub struct Correlator<In, Out> {
    pub(crate) table: RequestTable<In>,
    pub(crate) matching: Arc<dyn Matching<In, Out>>,
    pub(crate) deadline: Option<Duration>,
    /// A pointer to [`schedule_full_check`] for destructors, which have no bounds on the messages.
    pub(crate) schedule_full_check: fn(&Arc<Self>, &ConnectionHandle, RequestNumber),
}

/// Schedules checks of a table that is full of abandoned requests. `oldest` is the oldest
/// request. The session closes if the peer responds to none between two checks (design.md: Why
/// does a table full of abandoned requests close the session?).
#[cold]
fn schedule_full_check<In: Send + 'static, Out: 'static>(
    shared: &Arc<Correlator<In, Out>>,
    handle: &ConnectionHandle,
    mut oldest: RequestNumber,
) {
    let shared = Arc::clone(shared);
    let deadline = shared.deadline.unwrap_or(FULL_TIMEOUT);
    let timeout = deadline.min(FULL_TIMEOUT);
    handle.schedule(Instant::now() + timeout, move |handle, now| {
        match shared.table.check_full(&mut oldest) {
            Ok(again) => again.then(|| now + timeout),
            Err(Overdue) => {
                handle.close_with(CloseReason::AnswerMissed);
                None
            }
        }
    });
}

impl Observer for &ConnectionHandle {
    fn set_awaits_responses(&self, awaits: bool) {
        self.mark_awaits_responses(awaits);
    }

    fn set_abandoned(&self, requests: usize) {
        self.set_abandoned_requests(requests);
    }
}

impl<In, Out> fmt::Debug for Correlator<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Correlator").finish_non_exhaustive()
    }
}

impl<In, Out> Correlator<In, Out> {
    /// Passes `message` to the request to which it responds. Returns the message if no request
    /// waits for it and it is not late.
    #[inline]
    pub fn deliver(&self, which: ResponseTo, message: In, handle: &ConnectionHandle) -> Option<In> {
        match self.table.deliver(which, message, handle) {
            Ok(()) => handle.record_response(false),
            Err(Unsolicited::Late(_)) => handle.record_response(true),
            Err(Unsolicited::Push(message)) => return Some(message),
        }
        None
    }
}

impl<In: Send + 'static, Out: 'static> Correlator<In, Out> {
    /// Creates the state for the requests of one session.
    pub fn new(
        limits: Limits,
        matching: impl Matching<In, Out>,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            table: RequestTable::new(limits),
            matching: Arc::new(matching),
            deadline,
            schedule_full_check,
        }
    }
}

impl<In: Send + 'static, Out: 'static> Correlator<In, Out> {
    /// Registers for refused messages before the first request. A registration with the first
    /// request could be too late for it.
    pub fn guard(self: &Arc<Self>, handle: &ConnectionHandle) {
        self.table.input_guarded();
        handle.on_input_end(InputGuard(Arc::clone(self)));
    }
}

/// Wakes requests for a message that cannot be sent. All requests are woken because the
/// message's request is not known.
impl<In: Send + 'static, Out: 'static> PendingRequests for Correlator<In, Out> {
    fn wake_all(&self) {
        self.table.wake_all();
    }

    fn pending(&self) -> usize {
        self.table.in_flight()
    }
}

/// Held by the driver. Its destructor reports the end of the input.
pub(crate) struct InputGuard<In, Out>(pub(super) Arc<Correlator<In, Out>>);

impl<In: Send, Out> OnInputEnd for InputGuard<In, Out> {
    /// Removes a request that was not sent because there will be no response. It is removed here,
    /// before the next message is received: the requester may not be polled before, or may have
    /// given up.
    fn refused(&mut self, number: RequestNumber, handle: &ConnectionHandle) {
        self.0.table.remove_unsent(number, handle);
    }
}

impl<In, Out> Drop for InputGuard<In, Out> {
    fn drop(&mut self) {
        // (design.md: Why are requests notified of the end of input and not of the close?)
        self.0.table.input_ended();
    }
}
