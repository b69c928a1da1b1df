//! Limit on the operations in flight of a service and its clones.
//!
//! The number of free permits is one atomic number, with a bit beside it that is set while a
//! task waits. As long as the bit is clear, taking a permit and returning it are one atomic
//! operation each. Waiting tasks are in a [`WaiterQueue`]. The bit is set and cleared under the
//! lock of the queue. While it is set, only the first task of the queue can take a permit.

use std::task::{Context, Poll, Waker};

#[cfg(not(getty_loom))]
use std::sync::Arc;

#[cfg(getty_loom)]
use loom::sync::Arc;

use super::{AtomicUsize, Mutex, MutexGuard, Ordering, WaiterId, WaiterQueue};

/// Bit of [`Shared::free`] that is set while a task waits.
const AWAITED: usize = 1;
/// One free permit in [`Shared::free`].
const ONE: usize = 2;

/// Limit that one service and its clones share, with the position of this service in the queue.
///
/// A clone has no position in the queue.
#[derive(Debug)]
pub struct InFlightLimit {
    shared: Arc<Shared>,
    waiter: Option<WaiterId>,
}

/// One operation in flight. Dropping it returns the permit.
#[derive(Debug)]
pub struct Permit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Number of free permits, times [`ONE`], and the bit [`AWAITED`].
    free: AtomicUsize,
    queue: Mutex<WaiterQueue>,
}

impl InFlightLimit {
    /// Maximum number of permits.
    pub const MAX: usize = usize::MAX / ONE;

    /// Creates a limit of `max` permits, which must be at most [`MAX`](Self::MAX).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                max,
                free: AtomicUsize::new(max * ONE),
                queue: Mutex::new(WaiterQueue::default()),
            }),
            waiter: None,
        }
    }

    /// Returns the number of permits in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.max - self.free()
    }

    /// Returns the number of free permits.
    #[must_use]
    pub fn free(&self) -> usize {
        self.shared.free.load(Ordering::Relaxed) / ONE
    }

    /// Takes a permit. While none is free, the task waits in the queue.
    #[inline]
    pub fn poll_acquire(&mut self, cx: &Context<'_>) -> Poll<Permit> {
        if self.waiter.is_none() && self.shared.take(0) {
            return Poll::Ready(Permit(Arc::clone(&self.shared)));
        }
        self.poll_queued(cx)
    }

    #[cold]
    fn poll_queued(&mut self, cx: &Context<'_>) -> Poll<Permit> {
        let shared = &*self.shared;
        let mut queue = shared.queue.lock();
        let position = self.waiter.and_then(|waiter| queue.position(waiter));
        // from here on, a permit that is returned wakes the queue
        shared.free.fetch_or(AWAITED, Ordering::AcqRel);
        if position.unwrap_or(queue.len()) == 0 && shared.take(AWAITED) {
            let (old, next) = shared.remove(queue, position);
            self.waiter = None;
            next.into_iter().for_each(Waker::wake);
            drop(old);
            return Poll::Ready(Permit(Arc::clone(&self.shared)));
        }
        let old = queue.register(position, &mut self.waiter, cx);
        drop(queue);
        drop(old);
        Poll::Pending
    }

    /// Leaves the queue and wakes the next task if a permit is free.
    #[inline]
    pub fn cancel(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            let queue = self.shared.queue.lock();
            let position = queue.position(waiter);
            let (old, next) = self.shared.remove(queue, position);
            next.into_iter().for_each(Waker::wake);
            drop(old);
        }
    }
}

impl Clone for InFlightLimit {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            waiter: None,
        }
    }
}

impl Drop for InFlightLimit {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Shared {
    /// Takes a permit if one is free and the bit [`AWAITED`] has the value `awaited`.
    #[inline]
    fn take(&self, awaited: usize) -> bool {
        let mut free = self.free.load(Ordering::Relaxed);
        while free >= ONE && free & AWAITED == awaited {
            match self.free.compare_exchange_weak(
                free,
                free - ONE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    /// Removes a waiter from the queue. Returns its waker, and the waker of the new first task if a
    /// permit is free for it. The caller uses both outside the lock.
    fn remove(
        &self,
        mut queue: MutexGuard<'_, WaiterQueue>,
        position: Option<usize>,
    ) -> (Option<Waker>, Option<Waker>) {
        let removed = queue.remove(position);
        if queue.is_empty() {
            self.free.fetch_and(!AWAITED, Ordering::AcqRel);
            return (removed, None);
        }
        let has_free = self.free.load(Ordering::Acquire) >= ONE;
        let next = has_free.then(|| queue.next_waiter()).flatten();
        (removed, next)
    }

    #[cold]
    fn wake_first(&self) {
        let waker = self.queue.lock().next_waiter();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if self.0.free.fetch_add(ONE, Ordering::AcqRel) & AWAITED != 0 {
            self.0.wake_first();
        }
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::future::poll_fn;

    use loom::{future::block_on, thread};

    use super::*;

    /// Two tasks compete for one permit. Both get it, and it is free at the end.
    #[test]
    fn a_returned_permit_wakes_the_next_task() {
        loom::model(|| {
            let limit = InFlightLimit::new(1);
            let mut other = limit.clone();
            let thread = thread::spawn(move || {
                drop(block_on(poll_fn(|cx| other.poll_acquire(cx))));
            });
            let mut own = limit.clone();
            drop(block_on(poll_fn(|cx| own.poll_acquire(cx))));
            thread.join().unwrap();
            assert_eq!(limit.shared.free.load(Ordering::Relaxed), ONE);
        });
    }

    /// A task that was woken and leaves the queue passes the permit on.
    #[test]
    fn a_task_that_leaves_the_queue_wakes_the_next() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let limit = InFlightLimit::new(1);
            let mut holder = limit.clone();
            let permit = block_on(poll_fn(|cx| holder.poll_acquire(cx)));
            let mut leaver = limit.clone();
            let waker = Waker::noop();
            assert!(
                leaver
                    .poll_acquire(&Context::from_waker(waker))
                    .is_pending()
            );
            let returns = thread::spawn(move || drop(permit));
            let leaves = thread::spawn(move || drop(leaver));
            let mut last = limit.clone();
            drop(block_on(poll_fn(|cx| last.poll_acquire(cx))));
            returns.join().unwrap();
            leaves.join().unwrap();
        });
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn acquire(limit: &mut task::Spawn<InFlightLimit>) -> Poll<Permit> {
        limit.enter(|cx, mut limit| limit.as_mut().get_mut().poll_acquire(cx))
    }

    fn limits<const N: usize>(max: usize) -> [task::Spawn<InFlightLimit>; N] {
        let limit = InFlightLimit::new(max);
        [(); N].map(|()| task::spawn(limit.clone()))
    }

    #[test]
    fn permits_go_to_waiting_tasks_in_their_order() {
        let [mut first, mut second, mut third] = limits(1);
        let permit = assert_ready!(acquire(&mut first));
        assert_pending!(acquire(&mut second));
        assert_pending!(acquire(&mut third));
        drop(permit);
        assert!(second.is_woken() && !third.is_woken());
        assert_pending!(acquire(&mut first), "a later task does not overtake");
        assert_pending!(
            acquire(&mut third),
            "the second in the queue does not overtake"
        );
        let permit = assert_ready!(acquire(&mut second));
        drop(permit);
        assert!(third.is_woken());
        let permit = assert_ready!(acquire(&mut third));
        assert_eq!(third.used(), 1);
        drop(permit);
        assert!(first.is_woken());
        drop(assert_ready!(acquire(&mut first)));
        // the queue is empty again
        drop(assert_ready!(acquire(&mut second)));
        assert_eq!(third.used(), 0);
    }

    #[test]
    fn a_task_that_leaves_the_queue_wakes_the_next() {
        let [mut first, mut second, mut third] = limits(1);
        let permit = assert_ready!(acquire(&mut first));
        assert_pending!(acquire(&mut second));
        assert_pending!(acquire(&mut third));
        drop(permit);
        assert!(second.is_woken() && !third.is_woken());
        drop(second);
        assert!(third.is_woken());
        drop(assert_ready!(acquire(&mut third)));
    }

    #[test]
    fn two_returned_permits_wake_two_tasks() {
        let [mut first, mut second, mut third, mut fourth] = limits(2);
        let permits = [&mut first, &mut second].map(|limit| assert_ready!(acquire(limit)));
        assert_pending!(acquire(&mut third));
        assert_pending!(acquire(&mut fourth));
        drop(permits);
        assert!(third.is_woken());
        let _permit = assert_ready!(acquire(&mut third));
        assert!(fourth.is_woken(), "the first in the queue wakes the next");
        let _permit = assert_ready!(acquire(&mut fourth));
    }

    #[test]
    fn no_permit_is_lost_between_threads() {
        let limit = InFlightLimit::new(2);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut limit = limit.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    runtime.unwrap().block_on(async {
                        for _ in 0..2000 {
                            let acquire = std::future::poll_fn(|cx| limit.poll_acquire(cx));
                            let permit = acquire.await;
                            tokio::task::yield_now().await;
                            drop(permit);
                        }
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(limit.used(), 0);
        assert_eq!(limit.shared.free.load(Ordering::Relaxed), 2 * ONE);
    }
}
