//! Those who wait for the same, in the order in which they came.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

/// Who stands in a line.
pub(crate) type WaiterId = u64;

/// Wakers that it gives back are to be woken, or dropped, after the lock is released.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Without a waker once it was woken, until it looks again.
    waiters: VecDeque<(WaiterId, Option<Waker>)>,
    next: WaiterId,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many stand before this one, if it is in line.
    pub(super) fn place(&self, waiter: WaiterId) -> Option<usize> {
        self.waiters
            .binary_search_by_key(&waiter, |(id, _)| *id)
            .ok()
    }

    /// Has the caller woken, who stands at `place` or, from now on, at the end: then its id is put into `waiter`. Gives back
    /// the waker that it replaces.
    pub(super) fn stand(
        &mut self,
        place: Option<usize>,
        waiter: &mut Option<WaiterId>,
        cx: &Context<'_>,
    ) -> Option<Waker> {
        match place {
            Some(place) => register(&mut self.waiters[place].1, cx),
            None => {
                self.waiters
                    .push_back((self.next, Some(cx.waker().clone())));
                *waiter = Some(self.next);
                self.next += 1;
                None
            }
        }
    }

    /// Takes the one at `place` out of the line.
    pub(super) fn remove(&mut self, place: Option<usize>) -> Option<Waker> {
        self.waiters.remove(place?)?.1
    }

    /// The waker of the first, unless it was woken and has yet to look.
    pub(super) fn first(&mut self) -> Option<Waker> {
        self.waiters.front_mut()?.1.take()
    }

    /// The wakers of all that are still to be woken.
    pub(super) fn all(&mut self) -> Vec<Waker> {
        self.waiters
            .iter_mut()
            .filter_map(|(_, waker)| waker.take())
            .collect()
    }

    pub(super) fn shrink_to(&mut self, capacity: usize) {
        self.waiters.shrink_to(capacity);
    }

    #[cfg(all(test, not(getty_loom)))]
    pub(super) fn capacity(&self) -> usize {
        self.waiters.capacity()
    }
}

/// Puts the caller's waker into `slot`; gives back the one that it replaces.
pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}
