//! What becomes of messages that a `send` waits for.

use std::task::{Context, Poll};

use super::{
    Outbox,
    entry::{Attention, Queued},
    tickets::{Ticket, TicketId},
};
use crate::session::{error::SendFailure, payload::Payload};

/// What became of a message whose sender gives up.
#[derive(Debug)]
pub(crate) enum TakenBack<Out> {
    /// The driver had not taken it, and will not.
    Payload(Payload<Out>),
    /// It is too late for that: the driver has it, and may have begun to write it.
    Not { begun: bool },
    /// It is too late even to give up.
    Outcome(Result<usize, SendFailure<Out>>),
}

impl<Out> Outbox<Out> {
    /// The outcome of an attended message: how many bytes it took.
    pub(crate) fn poll_outcome(
        &self,
        cx: &Context<'_>,
        ticket: TicketId,
    ) -> Poll<Result<usize, SendFailure<Out>>> {
        let mut state = self.0.lock();
        let polled = state.senders().tickets.poll(cx, ticket);
        drop(state);
        // a waker that was replaced is dropped out here
        polled.map_or(Poll::Pending, Poll::Ready)
    }

    /// Nobody waits for this outcome any more; the message is sent all the same.
    pub(crate) fn abandon(&self, ticket: TicketId) {
        let mut state = self.0.lock();
        let old = state.senders().tickets.abandon(ticket);
        drop(state);
        drop(old); // may hold the user's message or waker
    }

    /// Takes a message back from the queue, if the driver has not taken it. Nobody waits for its outcome any more.
    pub(crate) fn take_back(&self, ticket: TicketId) -> TakenBack<Out> {
        let mut state = self.0.lock();
        let is_it = |queued: &Queued<Out>| queued.attention == Attention::waiting(ticket);
        let place = state.messages.iter().position(is_it);
        let queued = place.and_then(|place| state.messages.remove(place));
        if let (Some(queued), Some(charges)) = (&queued, &mut state.charges) {
            charges.unqueue(&queued.payload);
        }
        let tickets = &mut state.senders().tickets;
        let begun = tickets.has_begun(ticket);
        let old = tickets.abandon(ticket);
        let next = state.next_in_turn();
        drop(state);
        next.wake();
        match (queued, old) {
            (Some(queued), _) => TakenBack::Payload(queued.payload),
            (None, Some(Ticket::Done(outcome))) => TakenBack::Outcome(outcome),
            (None, _) => TakenBack::Not { begun },
        }
    }

    /// The transport has taken bytes of the message with this ticket, and all of those before it.
    pub(crate) fn begun(&self, ticket: TicketId) {
        self.0.lock().senders().tickets.begin(ticket);
    }

    pub(crate) fn complete(&self, ticket: TicketId, outcome: Result<usize, SendFailure<Out>>) {
        let mut state = self.0.lock();
        let old = state.senders().tickets.complete(ticket, outcome);
        drop(state);
        if let Ticket::Waiting(Some(waker)) = old {
            waker.wake();
        }
    }
}
