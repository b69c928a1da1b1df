//! The outcomes of sends: a window with contiguous ids from the oldest send without an outcome to the newest.

use std::{
    collections::VecDeque,
    mem,
    task::{Context, Waker},
};

use super::line::register;
use crate::session::error::SendFailure;

/// Which outcome a message is to be reported under.
pub(crate) type TicketId = u64;

type Outcome<Out> = Result<usize, SendFailure<Out>>;

#[derive(Debug)]
pub(super) enum Ticket<Out> {
    Waiting(Option<Waker>),
    Done(Outcome<Out>),
    Abandoned,
}

/// What it gives back, others' messages and wakers, is to be dropped after the lock is released.
#[derive(Debug)]
pub(super) struct Tickets<Out> {
    window: VecDeque<Ticket<Out>>,
    first: TicketId,
    /// The newest of which the transport is known to have taken bytes.
    begun: TicketId,
}

impl<Out> Default for Tickets<Out> {
    fn default() -> Self {
        Self {
            window: VecDeque::new(),
            first: 1, // 0 is nobody's
            begun: 0,
        }
    }
}

impl<Out> Tickets<Out> {
    pub(super) fn len(&self) -> usize {
        self.window.len()
    }

    /// A new one, that waits.
    pub(super) fn issue(&mut self) -> TicketId {
        self.window.push_back(Ticket::Waiting(None));
        self.first + self.window.len() as u64 - 1
    }

    fn ticket(&mut self, id: TicketId) -> Option<&mut Ticket<Out>> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.window.get_mut(index)
    }

    /// The outcome, or the waker that the caller's replaces.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        id: TicketId,
    ) -> Result<Outcome<Out>, Option<Waker>> {
        let Some(ticket) = self.ticket(id) else {
            unreachable!("a ticket stays in the window until its outcome is taken");
        };
        if let Ticket::Waiting(waker) = ticket {
            return Err(register(waker, cx));
        }
        match self.abandon(id) {
            Some(Ticket::Done(outcome)) => Ok(outcome),
            _ => unreachable!("an outcome is taken once, by its sender"),
        }
    }

    /// Nobody asks for this one any more.
    pub(super) fn abandon(&mut self, id: TicketId) -> Option<Ticket<Out>> {
        let old = mem::replace(self.ticket(id)?, Ticket::Abandoned);
        while let Some(Ticket::Abandoned) = self.window.front() {
            self.window.pop_front();
            self.first += 1;
        }
        Some(old)
    }

    /// What was there before, whose waker is to be woken; where nobody asks for it any more, the outcome itself.
    pub(super) fn complete(&mut self, id: TicketId, outcome: Outcome<Out>) -> Ticket<Out> {
        match self.ticket(id) {
            None | Some(Ticket::Abandoned) => Ticket::Done(outcome),
            Some(waiting) => mem::replace(waiting, Ticket::Done(outcome)),
        }
    }

    /// Completes all that wait; gives back whom to wake.
    pub(super) fn complete_all(&mut self, outcome: impl Fn() -> Outcome<Out>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for ticket in &mut self.window {
            if let Ticket::Waiting(waker) = ticket {
                wakers.extend(waker.take());
                *ticket = Ticket::Done(outcome());
            }
        }
        wakers
    }

    /// The transport has taken bytes of the message with this ticket, and all of those before it.
    pub(super) const fn begin(&mut self, id: TicketId) {
        self.begun = id;
    }

    pub(super) const fn has_begun(&self, id: TicketId) -> bool {
        id <= self.begun
    }

    pub(super) fn shrink_to(&mut self, capacity: usize) {
        self.window.shrink_to(capacity);
    }

    #[cfg(all(test, not(getty_loom)))]
    pub(super) fn capacity(&self) -> usize {
        self.window.capacity()
    }
}
