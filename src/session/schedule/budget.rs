//! The session loop's part in tokio's cooperative scheduling.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use tokio::task::coop;
use tower::Service;

/// Number of messages that cost one unit of tokio's cooperative budget. A task has 128 units
/// per poll.
const MESSAGES_PER_UNIT: u32 = 32;
/// Cost of a read, in messages. Control frames may arrive without end and yield no message.
const READ_COST: u32 = 8;
/// Number of bytes that cost as much as a message, because moving them takes as long.
const BYTES_PER_MESSAGE: usize = 4096;

/// Work since the last unit of tokio's cooperative budget was taken, counted in messages.
///
/// The loop takes the budget itself: transports in memory do not, and would occupy the thread
/// (design.md: Why is the cooperative budget taken by hand?).
#[derive(Debug, Default)]
pub(crate) struct CooperativeBudget {
    messages: u32,
}

impl CooperativeBudget {
    /// Returns the work that was counted. It changes with each message.
    #[inline]
    pub(crate) const fn counted(&self) -> u32 {
        self.messages
    }

    #[inline]
    pub(crate) const fn count_message(&mut self) {
        self.messages += 1;
    }

    #[inline]
    pub(crate) const fn count_read(&mut self) {
        self.messages += READ_COST;
    }

    /// Counts bytes that were read, or that were encoded.
    #[inline]
    pub(crate) fn count_bytes(&mut self, bytes: usize) {
        let messages = u32::try_from(bytes / BYTES_PER_MESSAGE).unwrap_or(u32::MAX);
        self.messages = self.messages.saturating_add(messages);
    }

    /// Makes a unit due, so that the loop stops after the current message.
    #[inline]
    pub(crate) const fn make_due(&mut self) {
        self.messages = MESSAGES_PER_UNIT;
    }

    /// Returns `true` if a unit must be taken.
    #[inline]
    pub(crate) const fn is_due(&self) -> bool {
        self.messages >= MESSAGES_PER_UNIT
    }

    /// Returns `true` if the task has no unit of tokio's cooperative budget left. tokio's
    /// primitives are then pending, even if they are ready.
    #[inline]
    pub(crate) fn is_exhausted() -> bool {
        !coop::has_budget_remaining()
    }

    /// Takes a unit if one is due. Returns `Pending` if the task has none left. The task must then
    /// yield and will be woken.
    #[inline]
    pub(crate) fn poll_proceed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_due() {
            return Poll::Ready(());
        }
        self.messages = 0;
        coop::poll_proceed(cx).map(|unit| unit.made_progress())
    }
}

/// Polls the readiness of `service` once more, without tokio's cooperative budget.
///
/// `first` is the result of a poll that may have met the end of the budget. tokio's primitives
/// are pending then, even if they have room. A layer that turns this into an error, such as
/// tower's `LoadShed`, would refuse without cause (design.md: Why is readiness polled without
/// the cooperative budget?). The caller must bound the number of calls with its own budget.
#[cold]
#[inline(never)]
pub(crate) fn poll_ready_unconstrained<S: Service<R>, R>(
    service: &mut S,
    cx: &mut Context<'_>,
    first: Poll<Result<(), S::Error>>,
) -> Poll<Result<(), S::Error>> {
    if matches!(first, Poll::Ready(Err(_))) {
        return first; // final: the service must not be polled again
    }
    unconstrained(cx, |cx| service.poll_ready(cx))
}

/// Calls `poll` without tokio's cooperative budget.
pub(crate) fn unconstrained<T>(
    cx: &mut Context<'_>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    pin!(coop::unconstrained(poll_fn(poll))).poll(cx)
}
