//! A queue of tasks that wait for the same resource, in the order in which they came.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

/// Identifies a waiter of one [`WaiterQueue`].
pub type WaiterId = u64;

/// Wakers of waiting tasks, first in, first out.
///
/// The queue is meant to be a field behind the lock that also guards the resource. Its methods
/// return wakers instead of waking or dropping them because both may run code of the
/// application: the caller must do so after it has released the lock.
#[derive(Debug, Default)]
pub struct WaiterQueue {
    /// The waker is `None` from the wake-up until the waiter is polled again.
    waiters: VecDeque<(WaiterId, Option<Waker>)>,
    next: WaiterId,
}

impl WaiterQueue {
    /// Returns the number of waiters.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns `true` if there is no waiter.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Returns the number of waiters before this one, or `None` if this one is not in the queue.
    #[must_use]
    pub fn position(&self, waiter: WaiterId) -> Option<usize> {
        self.waiters
            .binary_search_by_key(&waiter, |(id, _)| *id)
            .ok()
    }

    /// Registers the waker of `cx` for the waiter at `position`. Without a position, adds a waiter
    /// at the end and stores its id in `waiter`. Returns the waker that was replaced.
    pub fn register(
        &mut self,
        position: Option<usize>,
        waiter: &mut Option<WaiterId>,
        cx: &Context<'_>,
    ) -> Option<Waker> {
        match position {
            Some(position) => replace_waker(&mut self.waiters[position].1, cx),
            None => {
                self.waiters
                    .push_back((self.next, Some(cx.waker().clone())));
                *waiter = Some(self.next);
                self.next += 1;
                None
            }
        }
    }

    /// Removes the waiter at `position` and returns its waker.
    pub fn remove(&mut self, position: Option<usize>) -> Option<Waker> {
        self.waiters.remove(position?)?.1
    }

    /// Takes the waker of the first waiter. Returns `None` if the waiter was woken and has not
    /// been polled since.
    pub fn next_waiter(&mut self) -> Option<Waker> {
        self.waiters.front_mut()?.1.take()
    }

    /// Takes the wakers of all waiters that were not woken.
    pub fn take_all(&mut self) -> Vec<Waker> {
        self.waiters
            .iter_mut()
            .filter_map(|(_, waker)| waker.take())
            .collect()
    }

    /// Removes all waiters and returns the wakers of those that were not woken. Their ids have no
    /// [`position`](Self::position) afterwards.
    pub fn remove_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let waiters = std::mem::take(&mut self.waiters);
        waiters.into_iter().filter_map(|(_, waker)| waker)
    }

    /// Shrinks the allocation to the number of waiters, but to no less than `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.waiters.shrink_to(capacity);
    }

    #[cfg(all(test, not(getty_loom)))]
    pub(crate) fn capacity(&self) -> usize {
        self.waiters.capacity()
    }
}

/// Stores the waker of `cx` in `slot` and returns the waker that was replaced.
pub(crate) fn replace_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use tokio_test::task;

    use super::*;

    #[test]
    fn waiters_are_woken_in_order_and_once_until_they_register_again() {
        let mut queue = WaiterQueue::default();
        let mut tasks = [(); 2].map(|()| task::spawn(()));
        let mut ids = [None; 2];
        for (task, id) in tasks.iter_mut().zip(&mut ids) {
            assert!(task.enter(|cx, _| queue.register(None, id, cx)).is_none());
        }
        queue.next_waiter().unwrap().wake();
        assert!(tasks[0].is_woken() && !tasks[1].is_woken());
        assert!(
            queue.next_waiter().is_none(),
            "the first was not polled since"
        );
        let first = queue.position(ids[0].unwrap());
        assert_eq!(first, Some(0));
        assert!(queue.remove(first).is_none());
        assert_eq!(queue.position(ids[0].unwrap()), None);
        assert_eq!(queue.take_all().len(), 1);
        assert_eq!((queue.len(), queue.is_empty()), (1, false));
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, task::Poll};

    use loom::{future::block_on, sync::Arc, thread};

    use super::*;
    use crate::sync::Mutex;

    /// A number of permits and the tasks that wait for one.
    #[derive(Default)]
    struct Permits {
        free: usize,
        waiters: WaiterQueue,
    }

    impl Permits {
        fn next_waiter(&mut self) -> Option<Waker> {
            (self.free > 0)
                .then(|| self.waiters.next_waiter())
                .flatten()
        }
    }

    fn poll_acquire(
        permits: &Mutex<Permits>,
        waiter: &mut Option<WaiterId>,
        cx: &Context<'_>,
    ) -> Poll<()> {
        let mut permits = permits.lock();
        let position = waiter.and_then(|id| permits.waiters.position(id));
        if permits.free > 0 && position.unwrap_or(permits.waiters.len()) == 0 {
            permits.free -= 1;
            let gone = permits.waiters.remove(position);
            *waiter = None;
            let next = permits.next_waiter();
            drop(permits);
            drop(gone);
            next.into_iter().for_each(Waker::wake);
            return Poll::Ready(());
        }
        let replaced = permits.waiters.register(position, waiter, cx);
        drop(permits);
        drop(replaced);
        Poll::Pending
    }

    fn cancel(permits: &Mutex<Permits>, waiter: WaiterId) {
        let mut permits = permits.lock();
        let position = permits.waiters.position(waiter);
        let gone = permits.waiters.remove(position);
        let next = if position == Some(0) {
            permits.next_waiter()
        } else {
            None
        };
        drop(permits);
        drop(gone);
        next.into_iter().for_each(Waker::wake);
    }

    fn release(permits: &Mutex<Permits>) {
        let mut permits = permits.lock();
        permits.free += 1;
        let next = permits.next_waiter();
        drop(permits);
        next.into_iter().for_each(Waker::wake);
    }

    #[test]
    fn waiter_that_gives_up_passes_its_wake_up_to_the_next() {
        loom::model(|| {
            let permits = Arc::new(Mutex::new(Permits::default()));
            let (gives_up, stays) = (Arc::clone(&permits), Arc::clone(&permits));
            let gives_up = thread::spawn(move || {
                let (mut waiter, cx) = (None, Context::from_waker(Waker::noop()));
                let acquired = poll_acquire(&gives_up, &mut waiter, &cx).is_ready();
                if let Some(waiter) = waiter {
                    cancel(&gives_up, waiter);
                }
                acquired
            });
            let stays = thread::spawn(move || {
                let mut waiter = None;
                block_on(poll_fn(|cx| poll_acquire(&stays, &mut waiter, cx)));
            });
            release(&permits);
            if gives_up.join().unwrap() {
                release(&permits);
            }
            stays.join().unwrap();
        });
    }
}
