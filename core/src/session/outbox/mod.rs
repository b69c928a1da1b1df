//! The queue between a session and its driver: messages, outcomes of sends, and senders that
//! wait for room.
//!
//! One mutex guards three queues, none of which holds memory until it is first used
//! (design.md: Why is the outbox not a tokio channel?):
//!
//! - *messages* that the driver has not taken yet, each with the ticket of a `send` that waits
//!   for its outcome;
//! - *completions*, a window of contiguous ids from the oldest send without an outcome to the
//!   newest;
//! - *waiters*, the senders for which there was no room, in the order in which they came. Room
//!   goes to the first, and no sender overtakes it. A waiter that gives up passes its wake-up
//!   to the next.
//!
//! Wakers are woken, and messages, outcomes and wakers dropped, after the lock is released
//! because they may call back. Once warm, the queues allocate nothing. After a number of polls
//! with short queues, the memory of long ones is freed.

mod burst;
mod completions;
mod entry;
mod outcomes;
mod publish;
mod push;
mod queue_usage;
mod state;
mod take;

#[cfg(all(test, getty_loom))]
mod loom_model;
#[cfg(all(test, not(getty_loom)))]
mod tests;

use std::task::Waker;

pub(crate) use self::{
    burst::pop_first,
    completions::TicketId,
    entry::{Batch, Queued, request_number},
    outcomes::CancelResult,
    state::{DEFAULT_BOUND, PendingWakes},
    take::Taken,
};
use self::{queue_usage::QueueUsage, state::OutboxState};
use super::payload::{Payload, SendFailure, WeightFn};
use crate::{
    budget::MemoryBudget,
    connection::RequestNumber,
    panic::catch_and_log,
    sync::{Lazy, Mutex},
};

/// Named in the log if the destructor of an unsent message panics. The panic must not prevent
/// other senders from learning the outcome.
pub(crate) const DROPPING_MESSAGE: &str = "dropping a message that was not sent";

#[derive(Debug)]
pub(crate) struct Outbox<Out>(Mutex<OutboxState<Out>>);

/// Reason why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Budget,
    Finished,
    Closed,
}

impl<Out> Outbox<Out> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Mutex::new(OutboxState::new(capacity)))
    }

    /// Returns the number of waiting messages.
    pub(crate) fn len(&self) -> usize {
        let state = self.0.lock();
        let waits = match state.held {
            0 => state.messages.len(),
            _ => burst::count(&state.messages),
        };
        waits + state.taken as usize
    }

    /// Returns `true` if a message would be queued at once.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.lock();
        state.refusal().is_none() && state.waiter_count() == 0 && state.room() > 0
    }

    /// Sets how many messages may wait. Wakes the first waiting sender if there is room now.
    pub(crate) fn set_capacity(&self, capacity: u32) {
        let mut state = self.0.lock();
        state.capacity = capacity;
        let next = state.next_waiter();
        drop(state);
        next.wake();
    }

    /// Sets a budget, and charges it for the messages that are queued already.
    pub(crate) fn set_budget(&self, budget: MemoryBudget, id: u64, weigh: Option<WeightFn<Out>>) {
        let mut state = self.0.lock();
        let usage = QueueUsage::new(budget, id, weigh, &state.messages);
        state.usage.set(usage);
    }

    /// Sets the number of bytes in the write buffer.
    pub(crate) fn charge_written(&self, bytes: usize) {
        if let Some(usage) = self.0.lock().usage.get_mut() {
            usage.write(bytes);
        }
    }

    /// Closes the outbox. No message is accepted any more. Queued ones are still sent: the driver
    /// takes them with [`take`](Self::take).
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let wakers = state.wake_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Accepts messages again because the transport cannot end one direction alone.
    pub(crate) fn reopen(&self) {
        self.0.lock().finished = false;
    }

    /// Closes the outbox and fails the messages that were not sent. `failure` creates the error,
    /// with the payload if no byte was encoded. Returns the requests among the queued messages and
    /// the number of queued messages.
    pub(crate) fn fail_all(
        &self,
        left: Lazy<Batch<Out>>,
        failure: impl Fn(Option<Payload<Out>>) -> SendFailure<Out>,
    ) -> (Vec<(RequestNumber, Payload<Out>)>, u64) {
        self.close();
        let mut state = self.0.lock();
        let messages = std::mem::take(&mut state.messages);
        let usage = state.usage.take();
        drop(state);
        drop(usage);
        let (mut unattended, mut watched) = (Vec::new(), Vec::new());
        let mut count = 0;
        for Queued {
            payload,
            completion,
        } in left.into_iter().chain(messages)
        {
            let is_message = u64::from(payload.is_message());
            let before = unattended.len();
            match completion.ticket() {
                Some(ticket) => match request_number(ticket) {
                    Some(number) => watched.push((number, payload)),
                    // if the sender has given up, this drops the message
                    None => catch_and_log(DROPPING_MESSAGE, || {
                        self.complete(ticket, Err(failure(Some(payload))));
                    }),
                },
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
        let senders = state.senders.get_mut();
        let wakers = senders.map(|senders| senders.completions.complete_all(|| Err(failure(None))));
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        for payload in unattended {
            catch_and_log(DROPPING_MESSAGE, || drop(payload));
        }
        (watched, count)
    }
}
