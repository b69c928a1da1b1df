//! Outcomes of messages that a `send` waits for.

use std::task::{Context, Poll};

use super::{
    Outbox,
    completions::{SendState, TicketId},
    entry::{Completion, Queued},
};
use crate::session::payload::{Payload, SendFailure};

/// Result of cancelling a send.
#[derive(Debug)]
pub(crate) enum CancelResult<Out> {
    /// The driver had not taken the message, and will not.
    Payload(Payload<Out>),
    /// The driver has taken the message, and may have begun to write it.
    Not { begun: bool },
    /// The outcome was already known.
    Outcome(Result<usize, SendFailure<Out>>),
}

impl<Out> Outbox<Out> {
    /// Polls the outcome of a send: the size of the encoded message in bytes.
    pub(crate) fn poll_outcome(
        &self,
        cx: &Context<'_>,
        ticket: TicketId,
    ) -> Poll<Result<usize, SendFailure<Out>>> {
        let mut state = self.0.lock();
        let polled = state.senders().completions.poll(cx, ticket);
        drop(state);
        // a replaced waker is dropped here, outside the lock
        polled.map_or(Poll::Pending, Poll::Ready)
    }

    /// Records that the outcome of this send will not be polled. The message is still sent.
    pub(crate) fn abandon(&self, ticket: TicketId) {
        let mut state = self.0.lock();
        let old = state.senders().completions.abandon(ticket);
        drop(state);
        drop(old); // may hold the user's message or waker
    }

    /// Cancels a send: removes its message from the queue if the driver has not taken it. The
    /// outcome will not be polled.
    pub(crate) fn take_back(&self, ticket: TicketId) -> CancelResult<Out> {
        let mut state = self.0.lock();
        let is_it = |queued: &Queued<Out>| queued.completion == Completion::send(ticket);
        let position = state.messages.iter().position(is_it);
        let queued = position.and_then(|position| state.messages.remove(position));
        if let (Some(queued), Some(usage)) = (&queued, state.usage.get_mut()) {
            usage.unqueue(&queued.payload);
        }
        let completions = &mut state.senders().completions;
        let begun = completions.has_begun(ticket);
        let old = completions.abandon(ticket);
        let next = state.next_waiter();
        drop(state);
        next.wake();
        match (queued, old) {
            (Some(queued), _) => CancelResult::Payload(queued.payload),
            (None, Some(SendState::Done(outcome))) => CancelResult::Outcome(outcome),
            (None, _) => CancelResult::Not { begun },
        }
    }

    /// Records that the transport has taken bytes of this message, and all bytes of earlier ones.
    pub(crate) fn begun(&self, ticket: TicketId) {
        self.0.lock().senders().completions.begin(ticket);
    }

    pub(crate) fn complete(&self, ticket: TicketId, outcome: Result<usize, SendFailure<Out>>) {
        let mut state = self.0.lock();
        let old = state.senders().completions.complete(ticket, outcome);
        drop(state);
        if let SendState::Waiting(Some(waker)) = old {
            waker.wake();
        }
    }
}
