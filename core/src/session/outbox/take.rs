//! Methods for the driver: taking messages, and returning those that it could not encode.

use std::collections::VecDeque;

use super::{
    Outbox,
    burst::{count, pop_first, shared_bytes},
    entry::{Batch, Queued},
    publish::wake,
    state::RETAINED_CAPACITY,
};
use crate::{session::payload::Payload, sync::Lazy};

/// Content of the driver's batch in addition to the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// No other message, and nothing to report.
    Alone,
    /// A batch, whose end must be reported.
    Batch,
    /// A batch with broadcasts: its entries may be bursts.
    WithShared,
}

impl<Out> Outbox<Out> {
    /// Moves all queued messages into `batch`, which must be empty. The last batch then counts as
    /// encoded. Wakes the first waiting sender if there is room now. Returns `true` if `batch` has
    /// broadcasts: its entries may be bursts.
    pub(crate) fn take(&self, batch: &mut VecDeque<Queued<Out>>) -> bool {
        debug_assert!(
            batch.is_empty(),
            "the last batch is encoded before the next is taken"
        );
        let mut state = self.0.lock();
        std::mem::swap(&mut state.messages, batch);
        state.taken_bytes = std::mem::take(&mut state.held);
        let has_shared = state.taken_bytes > 0;
        let taken = if has_shared {
            count(batch)
        } else {
            batch.len()
        };
        state.taken = u32::try_from(taken).unwrap_or(u32::MAX);
        if let Some(usage) = state.usage.get_mut() {
            usage.take();
        }
        state.shrink_if_idle(Some(batch));
        let next = state.next_waiter();
        drop(state);
        next.wake();
        has_shared
    }

    /// Takes the first queued message. The rest is moved into `batch`, which must be empty, as
    /// with [`take`](Self::take). A message that is alone does not occupy an entry any more.
    #[inline(always)]
    pub(crate) fn take_first(&self, batch: &mut Lazy<Batch<Out>>) -> Option<(Queued<Out>, Taken)> {
        let mut state = self.0.lock();
        if state.messages.len() > 1 || state.usage.is_some() {
            drop(state);
            return self.take_first_of(batch);
        }
        let only = state.messages.pop_front()?;
        if state.held > 0
            && let Payload::Burst(_) = only.payload
        {
            state.messages.push_back(only);
            drop(state);
            return self.take_first_of(batch);
        }
        state.taken = 0;
        (state.held, state.taken_bytes) = (0, 0);
        if batch.is_some()
            || state.senders.is_some()
            || state.messages.capacity() > RETAINED_CAPACITY
        {
            state.shrink_if_idle(batch.get_mut());
            let (next, publisher) = (state.next_waiter(), state.next_publisher());
            drop(state);
            next.wake();
            wake(publisher);
        }
        Some((only, Taken::Alone))
    }

    #[inline(always)]
    fn take_first_of(&self, batch: &mut Lazy<Batch<Out>>) -> Option<(Queued<Out>, Taken)> {
        let batch = batch.get_or_default();
        if self.take(batch) {
            Some((pop_first(batch)?, Taken::WithShared))
        } else {
            Some((batch.pop_front()?, Taken::Batch))
        }
    }

    /// Takes back the part of the batch that was not encoded, and sets whether the write buffer is
    /// above its high watermark. Returns `true` if a waiting sender was woken.
    ///
    /// In the queue, messages can still be cancelled or dropped (design.md: Why do messages that
    /// cannot be encoded yet return to the outbox?).
    pub(crate) fn report(&self, left: &mut VecDeque<Queued<Out>>, blocked: bool) -> bool {
        let mut state = self.0.lock();
        state.taken = 0;
        state.blocked = blocked;
        if state.taken_bytes > 0 {
            state.taken_bytes = 0;
            state.held += shared_bytes(left);
        }
        if let Some(usage) = state.usage.get_mut() {
            usage.release(&*left);
        }
        if !left.is_empty() {
            std::mem::swap(&mut state.messages, left);
            state.messages.append(left);
        }
        let (next, publisher) = (state.next_waiter(), state.next_publisher());
        drop(state);
        let woken = next.is_some();
        next.wake();
        wake(publisher);
        woken
    }
}
