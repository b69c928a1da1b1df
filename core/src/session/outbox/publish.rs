//! Broadcasts: messages for many sessions, limited in bytes and not in entries of the queue.
//!
//! They do not wait for entries, and use them only while no sender waits for one. All messages
//! leave in the order in which they were queued (design.md: Why do waiting publishers have a
//! separate waiter queue?).

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    Outbox, Refusal, burst,
    entry::{Completion, Queued},
    state::OutboxState,
};
use crate::{
    session::payload::{Burst, ENTRY_OVERHEAD, Payload, SharedMessage, WeightFn},
    sync::WaiterId,
};

/// Maximum entries of a queue in which each broadcast has its own entry, without an
/// allocation.
const MAX_SINGLE_ENTRIES: usize = 64;

impl<Out> Outbox<Out> {
    /// Sets the limit of broadcasts, in bytes. Wakes the first waiting publisher if there is room
    /// now.
    pub(crate) fn set_shared_bytes(&self, bytes: usize) {
        let mut state = self.0.lock();
        state.bound = u32::try_from(bytes).unwrap_or(u32::MAX);
        let next = state.next_publisher();
        drop(state);
        wake(next);
    }

    /// Sets the function that weighs messages.
    pub(crate) fn set_weigh(&self, weigh: WeightFn<Out>) {
        self.0.lock().senders().weigh = Some(weigh);
    }

    /// Returns the function that weighs messages, if it was set.
    pub(crate) fn weigh(&self) -> Option<WeightFn<Out>> {
        self.0.lock().senders.get()?.weigh
    }

    /// Queues a broadcast if the queue is open, without another broadcast, with a free entry, and
    /// without a budget. Returns `true` if it did. This is the hot path for a member that keeps
    /// up.
    #[inline(always)]
    pub(crate) fn publish_alone(
        &self,
        message: &Arc<SharedMessage<Out>>,
        size: u32,
        droppable: bool,
    ) -> bool {
        let mut state = self.0.lock();
        let is_open = !state.closed && !state.finished && !state.usage.is_some();
        let is_alone = state.held | state.taken_bytes == 0;
        let has_place = state.len() < MAX_SINGLE_ENTRIES.min(state.capacity as usize)
            && state.waiter_count() == 0;
        if !(is_open && is_alone && has_place) {
            return false;
        }
        let weight = size.saturating_add(ENTRY_OVERHEAD);
        state.held = weight;
        state.messages.push_back(Queued {
            payload: Payload::Shared(Arc::clone(message)),
            completion: Completion::broadcast(weight, droppable),
        });
        true
    }

    /// Queues a broadcast of `size` bytes while the limit permits it, independent of the write
    /// buffer. Beyond the limit, a `droppable` broadcast replaces the oldest droppable ones, which
    /// are returned.
    ///
    /// While publishers wait, half of the limit is reserved for them.
    pub(crate) fn publish(
        &self,
        message: &Arc<SharedMessage<Out>>,
        size: u32,
        droppable: bool,
    ) -> Result<Vec<Payload<Out>>, Refusal> {
        let weight = size.saturating_add(ENTRY_OVERHEAD);
        let payload = Payload::Shared(Arc::clone(message));
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal() {
            return Err(refusal);
        }
        let bound = if state.publisher_count() > 0 {
            state.bound / 2
        } else {
            state.bound
        };
        let missing = state.missing_bytes(weight, bound);
        if missing == 0 && state.charge(&payload) {
            state.push_shared(payload, weight, droppable);
            return Ok(Vec::new());
        }
        let refusal = if missing == 0 {
            Refusal::Budget
        } else {
            Refusal::Full
        };
        // all have the same charge, so the budget need not be asked again
        let oldest = droppable.then(|| burst::oldest(&state.messages, missing));
        let Some(oldest) = oldest.flatten() else {
            drop(state);
            return Err(refusal);
        };
        let mut dropped = Vec::with_capacity(oldest.len());
        for position in oldest.into_iter().rev() {
            if let Some((payload, weight)) = burst::remove(&mut state.messages, position) {
                state.held -= weight;
                dropped.push(payload);
            }
        }
        for payload in dropped.iter().skip(1) {
            state.uncharge(payload);
        }
        state.push_shared(payload, weight, droppable);
        drop(state);
        Ok(dropped)
    }

    /// Queues a broadcast of `size` bytes once the limit permits it and all earlier publishers are
    /// done. `payload` is not taken until then. `waiter` is the caller's id in the queue of
    /// publishers, kept between polls.
    pub(crate) fn poll_publish(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        size: u32,
        waiter: &mut Option<WaiterId>,
    ) -> Poll<Result<(), Refusal>> {
        let weight = size.saturating_add(ENTRY_OVERHEAD);
        let mut state = self.0.lock();
        let refusal = state.refusal();
        let position = waiter.and_then(|id| state.senders().publishers.position(id));
        let is_first = position.unwrap_or(state.publisher_count()) == 0;
        if refusal.is_none() && !(is_first && state.missing_bytes(weight, state.bound) == 0) {
            let replaced = state.senders().publishers.register(position, waiter, cx);
            drop(state);
            drop(replaced);
            return Poll::Pending;
        }
        let gone = state.senders().publishers.remove(position);
        *waiter = None;
        let queued = match (refusal, payload.take()) {
            (None, Some(queued)) if state.charge(&queued) => {
                state.push_shared(queued, weight, false);
                Ok(())
            }
            (refusal, left) => {
                *payload = left;
                Err(refusal.unwrap_or(Refusal::Budget))
            }
        };
        let next = state.next_publisher();
        drop(state);
        drop(gone);
        wake(next);
        Poll::Ready(queued)
    }

    /// Stops waiting for the limit and wakes the next publisher if there is room.
    pub(crate) fn cancel_publish(&self, waiter: WaiterId) {
        let mut state = self.0.lock();
        let publishers = &mut state.senders().publishers;
        let position = publishers.position(waiter);
        let gone = publishers.remove(position);
        let next = if position == Some(0) {
            state.next_publisher()
        } else {
            None
        };
        drop(state);
        drop(gone);
        wake(next);
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    waker.into_iter().for_each(Waker::wake);
}

impl<Out> OutboxState<Out> {
    /// Returns the number of waiting publishers.
    fn publisher_count(&self) -> usize {
        self.senders
            .get()
            .map_or(0, |senders| senders.publishers.len())
    }

    /// Returns how many bytes must leave before a broadcast of `weight` bytes fits the `bound`. A
    /// message that exceeds the limit alone waits until there is no other.
    fn missing_bytes(&self, weight: u32, bound: u32) -> u32 {
        let held = self.held + self.taken_bytes;
        held.min(held.saturating_add(weight).saturating_sub(bound))
    }

    /// Queues a broadcast that is already charged.
    fn push_shared(&mut self, payload: Payload<Out>, weight: u32, droppable: bool) {
        self.held += weight;
        let has_place = self.messages.len() < MAX_SINGLE_ENTRIES
            && self.waiter_count() == 0
            && self.free_entries() > 0;
        let run = match self.messages.back_mut() {
            Some(Queued {
                payload: Payload::Burst(run),
                ..
            }) => Some(run),
            _ => None,
        };
        match (payload, run) {
            (Payload::Shared(message), Some(run)) => run.push(message, weight, droppable),
            (Payload::Shared(message), None) if !has_place => {
                let mut run = Burst::new();
                run.push(message, weight, droppable);
                self.messages.push_back(Queued {
                    payload: Payload::Burst(run),
                    completion: Completion::NONE,
                });
            }
            (payload, _) => self.messages.push_back(Queued {
                payload,
                completion: Completion::broadcast(weight, droppable),
            }),
        }
    }

    /// Returns the waker of the first publisher if there is room below the limit. If its message
    /// needs more, the publisher registers again.
    pub(super) fn next_publisher(&mut self) -> Option<Waker> {
        if self.held + self.taken_bytes >= self.bound.max(1) {
            return None;
        }
        self.senders.get_mut()?.publishers.next_waiter()
    }
}
