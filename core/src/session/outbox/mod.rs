//! The queue between a session and its driver: messages, the outcomes of sends, and senders that wait for room.
//!
//! One mutex guards three queues, none of which holds memory until it is first used:
//!
//! - *messages* that the driver has not taken yet, each with the ticket of a `send` that waits for its outcome;
//! - *tickets*, a window with contiguous ids from the oldest send without an outcome to the newest;
//! - *waiters*, the senders for whom there was no room, in the order in which they came. Room goes to the
//!   first; nobody overtakes it. A waiter that gives up passes its wake-up on to the next.
//!
//! Wakers are woken, and messages, outcomes and wakers dropped, after the lock is released: they are others' code and
//! may come back. Once warm the queues allocate nothing; what a busy time made them grow to is given back after a
//! number of turns with little to do.

mod burst;
mod charges;
mod entry;
mod line;
mod outcomes;
mod publish;
mod push;
mod state;
mod take;
mod tickets;

#[cfg(all(test, getty_loom))]
mod loom_model;
#[cfg(all(test, not(getty_loom)))]
mod tests;

use std::{collections::VecDeque, task::Waker};

pub(crate) use self::{
    burst::{Burst, pop_first},
    entry::{Batch, Queued, watched_number},
    line::WaiterId,
    outcomes::TakenBack,
    state::{DEFAULT_BOUND, Next},
    take::Taken,
    tickets::TicketId,
};
use self::{charges::Charges, state::State};
use super::{
    error::SendFailure,
    payload::{Payload, Weigh},
    watched::Number,
};
use crate::{budget::MemoryBudget, connection::contain, sync::Mutex};

/// What is done to messages that nobody gets back: a panic of one is not to keep others' senders from the end.
pub(crate) const DROPPING: &str = "dropping a message that was not sent";

#[derive(Debug)]
pub(crate) struct Outbox<Out>(Mutex<State<Out>>);

/// Why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Budget,
    Finished,
    Closed,
}

impl<Out> Outbox<Out> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Mutex::new(State::new(capacity)))
    }

    /// How many messages wait here.
    pub(crate) fn len(&self) -> usize {
        let state = self.0.lock();
        let waits = match state.held {
            0 => state.messages.len(),
            _ => burst::count(&state.messages),
        };
        waits + state.taken as usize
    }

    /// Whether a message would be queued at once.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.lock();
        state.refusal().is_none() && state.waiting() == 0 && state.room() > 0
    }

    /// Sets how many messages may wait. Wakes the first sender that waits, if that made room.
    pub(crate) fn set_capacity(&self, capacity: u32) {
        let mut state = self.0.lock();
        state.capacity = capacity;
        let next = state.next_in_turn();
        drop(state);
        next.wake();
    }

    /// Has what lies here charged to a budget, from the beginning.
    pub(crate) fn set_budget(&self, budget: MemoryBudget, id: u64, weigh: Option<Weigh<Out>>) {
        let mut state = self.0.lock();
        let charges = Charges::new(budget, id, weigh, &state.messages);
        state.charges = Some(Box::new(charges));
    }

    /// So many bytes lie in the write buffer.
    pub(crate) fn charge_written(&self, bytes: usize) {
        if let Some(charges) = &mut self.0.lock().charges {
            charges.write(bytes);
        }
    }

    /// No message is taken any more. Those that lie here still go out: the driver takes them with [`take`](Self::take).
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let wakers = state.wake_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The transport cannot end our direction alone: messages are taken again.
    pub(crate) fn reopen(&self) {
        self.0.lock().finished = false;
    }

    /// Closes the outbox. Messages that were not sent fail, by `failure` with the payload if no
    /// byte was encoded. Returns the requests among the queued messages, and the number of queued
    /// messages.
    pub(crate) fn fail_all(
        &self,
        left: VecDeque<Queued<Out>>,
        failure: impl Fn(Option<Payload<Out>>) -> SendFailure<Out>,
    ) -> (Vec<(Number, Payload<Out>)>, u64) {
        self.close();
        let mut state = self.0.lock();
        let messages = std::mem::take(&mut state.messages);
        let charges = state.charges.take();
        drop(state);
        drop(charges);
        let (mut unattended, mut watched) = (Vec::new(), Vec::new());
        let mut count = 0;
        for Queued { payload, attention } in left.into_iter().chain(messages) {
            let is_message = u64::from(payload.is_message());
            let before = unattended.len();
            match attention.ticket() {
                Some(ticket) if let Some(number) = watched_number(ticket) => {
                    watched.push((number, payload));
                }
                // where its sender has given up, this drops it
                Some(ticket) => contain(DROPPING, || {
                    self.complete(ticket, Err(failure(Some(payload))));
                }),
                None => match payload {
                    Payload::Burst(burst) => unattended.extend(burst.into_payloads()),
                    payload => unattended.push(payload),
                },
            }
            // a burst is several messages
            let bursts = (unattended.len() - before).saturating_sub(1);
            count += is_message + bursts as u64;
        }
        let mut state = self.0.lock();
        let senders = state.senders.as_mut();
        let wakers = senders.map(|senders| senders.tickets.complete_all(|| Err(failure(None))));
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        for payload in unattended {
            contain(DROPPING, || drop(payload));
        }
        (watched, count)
    }
}
