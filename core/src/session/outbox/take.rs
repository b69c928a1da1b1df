//! The driver's side: out of the queue, and what it could not encode back into it.

use std::collections::VecDeque;

use super::{
    Outbox,
    burst::{count, pop_first, shared_bytes},
    entry::{Batch, Queued},
    publish::wake,
    state::SHORT,
};
use crate::session::payload::Payload;

/// Content of the driver's batch beside the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nothing else, and nothing is to be reported.
    Alone,
    /// A batch, whose end is to be reported.
    Batch,
    /// The same, with broadcasts: its entries may be bursts.
    WithShared,
}

impl<Out> Outbox<Out> {
    /// Moves all queued messages into `batch`, which must be empty. The last batch then counts as
    /// encoded. Wakes the first sender that waits, if there is room now. Returns `true` if `batch`
    /// has broadcasts: then its entries may be bursts.
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
        if let Some(charges) = &mut state.charges {
            charges.take();
        }
        state.give_back(Some(batch));
        let next = state.next_in_turn();
        drop(state);
        next.wake();
        has_shared
    }

    /// Takes the first of what is queued. The rest goes into `batch`, which is empty, as with
    /// [`take`](Self::take). A message that is alone does not occupy a place any more.
    #[inline(always)]
    pub(crate) fn take_first(
        &self,
        batch: &mut Option<Box<Batch<Out>>>,
    ) -> Option<(Queued<Out>, Taken)> {
        let mut state = self.0.lock();
        if state.messages.len() > 1 || state.charges.is_some() {
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
        if batch.is_some() || state.senders.is_some() || state.messages.capacity() > SHORT {
            state.give_back(batch.as_deref_mut());
            let (next, publisher) = (state.next_in_turn(), state.next_publisher());
            drop(state);
            next.wake();
            wake(publisher);
        }
        Some((only, Taken::Alone))
    }

    #[inline(always)]
    fn take_first_of(&self, batch: &mut Option<Box<Batch<Out>>>) -> Option<(Queued<Out>, Taken)> {
        let batch = batch.get_or_insert_default();
        if self.take(batch) {
            Some((pop_first(batch)?, Taken::WithShared))
        } else {
            Some((batch.pop_front()?, Taken::Batch))
        }
    }

    /// Takes back what is left of the batch to encode, and learns whether the write buffer is above its high watermark:
    /// what the driver cannot encode now is better here, where it may be taken back and dropped. `true` if that woke a
    /// sender that waits.
    pub(crate) fn report(&self, left: &mut VecDeque<Queued<Out>>, blocked: bool) -> bool {
        let mut state = self.0.lock();
        state.taken = 0;
        state.blocked = blocked;
        if state.taken_bytes > 0 {
            state.taken_bytes = 0;
            state.held += shared_bytes(left);
        }
        if let Some(charges) = &mut state.charges {
            charges.give_back(&*left);
        }
        if !left.is_empty() {
            std::mem::swap(&mut state.messages, left);
            state.messages.append(left);
        }
        let (next, publisher) = (state.next_in_turn(), state.next_publisher());
        drop(state);
        let woken = next.is_some();
        next.wake();
        wake(publisher);
        woken
    }
}
