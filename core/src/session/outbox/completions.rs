//! Outcomes of sends: a window of contiguous ids from the oldest send without an outcome to
//! the newest.

use std::{
    collections::VecDeque,
    mem,
    task::{Context, Waker},
};

use crate::{session::payload::SendFailure, sync::replace_waker};

/// Id of a send, under which its outcome is reported.
pub(crate) type TicketId = u64;

type Outcome<Out> = Result<usize, SendFailure<Out>>;

#[derive(Debug)]
pub(super) enum SendState<Out> {
    Waiting(Option<Waker>),
    Done(Outcome<Out>),
    Abandoned,
}

/// Sends whose outcomes are not taken yet.
///
/// Methods return wakers and messages, which must be woken or dropped after the lock is
/// released.
#[derive(Debug)]
pub(super) struct SendCompletions<Out> {
    window: VecDeque<SendState<Out>>,
    first: TicketId,
    /// The newest send of which the transport is known to have taken bytes.
    begun: TicketId,
}

impl<Out> Default for SendCompletions<Out> {
    fn default() -> Self {
        Self {
            window: VecDeque::new(),
            first: 1, // 0 means no sender
            begun: 0,
        }
    }
}

impl<Out> SendCompletions<Out> {
    pub(super) fn len(&self) -> usize {
        self.window.len()
    }

    /// Adds a send that waits and returns its id.
    pub(super) fn issue(&mut self) -> TicketId {
        self.window.push_back(SendState::Waiting(None));
        self.first + self.window.len() as u64 - 1
    }

    fn ticket(&mut self, id: TicketId) -> Option<&mut SendState<Out>> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.window.get_mut(index)
    }

    /// Returns the outcome, or registers the waker of `cx` and returns the waker that was
    /// replaced.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        id: TicketId,
    ) -> Result<Outcome<Out>, Option<Waker>> {
        let Some(ticket) = self.ticket(id) else {
            unreachable!("a ticket stays in the window until its outcome is taken");
        };
        if let SendState::Waiting(waker) = ticket {
            return Err(replace_waker(waker, cx));
        }
        match self.abandon(id) {
            Some(SendState::Done(outcome)) => Ok(outcome),
            _ => unreachable!("an outcome is taken once, by its sender"),
        }
    }

    /// Records that the outcome of this send will not be polled.
    pub(super) fn abandon(&mut self, id: TicketId) -> Option<SendState<Out>> {
        let old = mem::replace(self.ticket(id)?, SendState::Abandoned);
        while let Some(SendState::Abandoned) = self.window.front() {
            self.window.pop_front();
            self.first += 1;
        }
        Some(old)
    }

    /// Sets the outcome. Returns the earlier state, whose waker must be woken or the outcome
    /// itself if the send was abandoned.
    pub(super) fn complete(&mut self, id: TicketId, outcome: Outcome<Out>) -> SendState<Out> {
        match self.ticket(id) {
            None | Some(SendState::Abandoned) => SendState::Done(outcome),
            Some(waiting) => mem::replace(waiting, SendState::Done(outcome)),
        }
    }

    /// Sets the outcome of all sends that wait. Returns the wakers to wake.
    pub(super) fn complete_all(&mut self, outcome: impl Fn() -> Outcome<Out>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for ticket in &mut self.window {
            if let SendState::Waiting(waker) = ticket {
                wakers.extend(waker.take());
                *ticket = SendState::Done(outcome());
            }
        }
        wakers
    }

    /// Records that the transport has taken bytes of this message, and all bytes of earlier ones.
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
