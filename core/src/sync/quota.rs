//! A counter with a limit, and tasks that wait until usage falls below a threshold.

use std::{
    collections::BTreeMap,
    task::{Context, Waker},
};

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Usage of a shared resource: reserved and released by any thread, without a lock.
///
/// Tasks can wait until the usage falls below the threshold. Each task has a key and one
/// waker.
#[derive(Debug)]
pub struct Quota {
    limit: usize,
    threshold: usize,
    used: AtomicUsize,
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Quota {
    #[doc(hidden)]
    #[must_use]
    pub fn new(limit: usize, threshold: usize) -> Self {
        Self {
            limit,
            threshold,
            used: AtomicUsize::new(0),
            waiting: Mutex::new(BTreeMap::new()),
        }
    }

    /// Returns the limit.
    #[inline]
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the usage at which waiting tasks wait.
    #[inline]
    #[must_use]
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// Returns the current usage.
    #[inline]
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Returns `true` if the usage has reached the threshold.
    #[inline]
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used() >= self.threshold
    }

    /// Adds `amount` to the usage if the sum does not exceed `limit`. Returns `true` if it did.
    pub fn try_reserve(&self, amount: usize, limit: usize) -> bool {
        let reserve = |used: usize| used.checked_add(amount).filter(|used| *used <= limit);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve)
            .is_ok()
    }

    /// Adds `amount` to the usage, which may exceed the limit.
    pub fn reserve(&self, amount: usize) {
        self.used.fetch_add(amount, Ordering::AcqRel);
    }

    /// Subtracts `amount` from the usage. Wakes all waiting tasks if the usage falls below the
    /// threshold.
    pub fn release(&self, amount: usize) {
        let before = self.used.fetch_sub(amount, Ordering::AcqRel);
        if before >= self.threshold && before - amount < self.threshold {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_values().for_each(Waker::wake);
        }
    }

    /// Registers the waker of `cx` under `key`. Returns `false` if the usage is already below the
    /// threshold.
    pub fn register(&self, key: u64, cx: &Context<'_>) -> bool {
        let mut waiting = self.waiting.lock();
        let old = waiting.insert(key, cx.waker().clone());
        drop(waiting);
        drop(old);
        // checked after the waker was stored: every later release sees the waker
        self.is_used_up()
    }

    /// Removes the waker under `key`.
    pub fn unregister(&self, key: u64) {
        let old = self.waiting.lock().remove(&key);
        drop(old);
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, task::Poll};

    use loom::{future::block_on, sync::Arc, thread};

    use super::*;

    #[test]
    fn waiting_task_is_woken_by_the_release_that_falls_below_the_threshold() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let quota = Arc::new(Quota::new(8, 7));
            quota.reserve(8);
            let ends = [(); 2].map(|()| {
                let quota = Arc::clone(&quota);
                thread::spawn(move || quota.release(4))
            });
            block_on(poll_fn(|cx| {
                if quota.is_used_up() && quota.register(3, cx) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            }));
            for end in ends {
                end.join().unwrap();
            }
            assert_eq!(quota.used(), 0);
        });
    }
}
