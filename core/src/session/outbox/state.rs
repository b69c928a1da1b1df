//! State behind the mutex of the outbox.

use std::{collections::VecDeque, task::Waker};

use super::{
    Refusal,
    completions::{SendCompletions, TicketId},
    entry::{Completion, Queued},
    queue_usage::QueueUsage,
};
use crate::{
    connection::RequestNumber,
    session::payload::{Payload, WeightFn},
    sync::{Lazy, WaiterId, WaiterQueue},
};

#[derive(Debug)]
pub(super) struct OutboxState<Out> {
    pub(super) messages: VecDeque<Queued<Out>>,
    /// Number of the last queued request.
    pub(super) last_request: RequestNumber,
    /// Created for the first sender that waits.
    pub(super) senders: Lazy<SenderState<Out>>,
    /// Maximum number of messages in the queue and, taken but not encoded, with the driver.
    pub(super) capacity: u32,
    /// Number of messages that the driver has taken and not encoded.
    pub(super) taken: u32,
    /// Weight of the broadcasts in the queue, in bytes.
    pub(super) held: u32,
    /// Weight of the broadcasts in the driver's batch, in bytes.
    pub(super) taken_bytes: u32,
    /// Maximum sum of both.
    pub(super) bound: u32,
    /// `true` while the driver takes no messages because too many bytes wait for the peer.
    pub(super) blocked: bool,
    /// `true` if this side's direction has ended, or will end after the queued messages.
    pub(super) finished: bool,
    pub(super) closed: bool,
    /// Budget charges if there is a budget.
    pub(super) usage: Lazy<QueueUsage<Out>>,
    /// Number of consecutive polls with short queues.
    idle_rounds: u8,
}

/// Senders that wait.
#[derive(Debug)]
pub(super) struct SenderState<Out> {
    /// Senders that wait for an outcome.
    pub(super) completions: SendCompletions<Out>,
    /// Senders that wait for room.
    pub(super) waiters: WaiterQueue,
    /// Tasks that wait for room without taking it. They delay no sender.
    pub(super) writable_waiters: WaiterQueue,
    /// Publishers that wait until broadcasts have left.
    pub(super) publishers: WaiterQueue,
    /// Function that weighs messages, if it was set.
    pub(super) weigh: Option<WeightFn<Out>>,
}

impl<Out> Default for SenderState<Out> {
    fn default() -> Self {
        Self {
            completions: SendCompletions::default(),
            waiters: WaiterQueue::default(),
            writable_waiters: WaiterQueue::default(),
            publishers: WaiterQueue::default(),
            weigh: None,
        }
    }
}

/// Kind of the completion of a pushed message.
#[derive(Clone, Copy, Debug)]
pub(super) enum CompletionKind {
    None,
    Send,
    RequestOutcomes,
}

/// Default limit of broadcasts, in bytes.
pub(crate) const DEFAULT_BOUND: u32 = 1024 * 1024;

/// Number of entries whose memory a queue keeps. A queue that is no longer is short.
pub(super) const RETAINED_CAPACITY: usize = 8;
/// Number of consecutive polls with short queues after which the memory of long ones is freed.
/// Large against 1, so that growing again costs almost nothing per message.
pub(super) const SHRINK_AFTER: u8 = 32;

impl<Out> OutboxState<Out> {
    pub(super) const fn new(capacity: u32) -> Self {
        Self {
            messages: VecDeque::new(),
            last_request: 0,
            senders: Lazy::new(),
            capacity,
            taken: 0,
            held: 0,
            taken_bytes: 0,
            bound: DEFAULT_BOUND,
            blocked: false,
            finished: false,
            closed: false,
            usage: Lazy::new(),
            idle_rounds: 0,
        }
    }

    pub(super) fn senders(&mut self) -> &mut SenderState<Out> {
        self.senders.get_or_default()
    }

    pub(super) fn room(&self) -> usize {
        if self.blocked { 0 } else { self.free_entries() }
    }

    /// Returns the reason why nothing is accepted any more if there is one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if self.finished {
            Some(Refusal::Finished)
        } else {
            None
        }
    }

    /// Charges for `payload` if there is a budget. Returns `false` if the budget has no room.
    pub(super) fn charge(&mut self, payload: &Payload<Out>) -> bool {
        self.usage
            .get_mut()
            .is_none_or(|usage| usage.queue(payload))
    }

    /// Releases the charge of `payload`, which was in the queue.
    pub(super) fn uncharge(&mut self, payload: &Payload<Out>) {
        if let Some(usage) = self.usage.get_mut() {
            usage.unqueue(payload);
        }
    }

    /// Charges for `payload` in place of the message at index `old`. Returns `false` if the budget
    /// has no room.
    pub(super) fn charge_in_place_of(&mut self, old: usize, payload: &Payload<Out>) -> bool {
        self.usage
            .get_mut()
            .is_none_or(|usage| usage.replace(&self.messages[old].payload, payload))
    }

    /// Takes the wakers of all tasks that wait for room because there will be none.
    pub(super) fn wake_all(&mut self) -> Vec<Waker> {
        let Some(senders) = self.senders.get_mut() else {
            return Vec::new();
        };
        let mut all = senders.waiters.take_all();
        all.append(&mut senders.writable_waiters.take_all());
        all.append(&mut senders.publishers.take_all());
        all
    }

    /// Returns how many more messages the queue can hold, independent of the write buffer.
    pub(super) fn free_entries(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.len())
    }

    /// Returns the number of messages in the queue and, taken but not encoded, with the driver.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.taken as usize
    }

    /// Returns the waker of the first sender if there is room and it was not woken. That sender
    /// wakes the next when it has pushed or given up. If no sender waits, returns the wakers of
    /// all tasks that wait without taking room.
    pub(super) fn next_waiter(&mut self) -> PendingWakes {
        if self.room() == 0 {
            return PendingWakes::One(None);
        }
        match self.senders.get_mut() {
            None => PendingWakes::One(None),
            Some(senders) if !senders.waiters.is_empty() => {
                PendingWakes::One(senders.waiters.next_waiter())
            }
            Some(senders) if senders.writable_waiters.is_empty() => PendingWakes::One(None),
            Some(senders) => PendingWakes::All(senders.writable_waiters.take_all()),
        }
    }

    /// Returns the number of senders that wait for room.
    pub(super) fn waiter_count(&self) -> usize {
        self.senders
            .get()
            .map_or(0, |senders| senders.waiters.len())
    }

    pub(super) fn position(&self, waiter: WaiterId) -> Option<usize> {
        self.senders.get()?.waiters.position(waiter)
    }

    /// Removes a sender that waits for room. Its waker must be dropped after the lock is released.
    pub(super) fn remove(&mut self, position: Option<usize>) -> Option<Waker> {
        self.senders.get_mut()?.waiters.remove(position)
    }

    #[inline]
    pub(super) fn push(
        &mut self,
        payload: Payload<Out>,
        attended: CompletionKind,
    ) -> Option<TicketId> {
        let completion = match attended {
            CompletionKind::None => Completion::NONE,
            CompletionKind::Send => Completion::send(self.senders().completions.issue()),
            CompletionKind::RequestOutcomes => self.next_request(),
        };
        self.messages.push_back(Queued {
            payload,
            completion,
        });
        completion.ticket()
    }

    /// Returns the completion for the next request.
    #[inline]
    pub(super) const fn next_request(&mut self) -> Completion {
        self.last_request += 1;
        Completion::request(self.last_request)
    }

    /// Counts polls with short queues, and frees the memory of long ones after a number of them.
    pub(super) fn shrink_if_idle(&mut self, batch: Option<&mut VecDeque<Queued<Out>>>) {
        let mut longest = batch.as_ref().map_or(1, |batch| batch.len());
        if let Some(senders) = self.senders.get() {
            longest = longest
                .max(senders.completions.len())
                .max(senders.waiters.len())
                .max(senders.writable_waiters.len())
                .max(senders.publishers.len());
        }
        if longest > RETAINED_CAPACITY {
            self.idle_rounds = 0;
            return;
        }
        self.idle_rounds += 1;
        if self.idle_rounds == SHRINK_AFTER {
            self.idle_rounds = 0;
            batch
                .into_iter()
                .for_each(|batch| batch.shrink_to(RETAINED_CAPACITY));
            self.messages.shrink_to(RETAINED_CAPACITY);
            if let Some(senders) = self.senders.get_mut() {
                senders.completions.shrink_to(RETAINED_CAPACITY);
                senders.waiters.shrink_to(RETAINED_CAPACITY);
                senders.writable_waiters.shrink_to(RETAINED_CAPACITY);
                senders.publishers.shrink_to(RETAINED_CAPACITY);
            }
        }
    }
}

/// Wakers that must be woken after the lock is released.
pub(crate) enum PendingWakes {
    One(Option<Waker>),
    All(Vec<Waker>),
}

impl PendingWakes {
    pub(super) const fn is_some(&self) -> bool {
        match self {
            Self::One(waker) => waker.is_some(),
            Self::All(wakers) => !wakers.is_empty(),
        }
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Self::One(waker) => waker.into_iter().for_each(Waker::wake),
            Self::All(wakers) => wakers.into_iter().for_each(Waker::wake),
        }
    }
}
