//! Tasks that wait until one socket is writable.
//!
//! tokio keeps a single waker per socket and direction, the one of the last poll. The waiters
//! therefore all poll the socket with one shared waker, which wakes every task in this list
//! (design.md: Why do UDP sessions send by themselves?).
//!
//! The module depends on nothing but `std` so that its protocol can be model-checked.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// The tasks that wait for one resource.
pub(super) struct WriteWaiters {
    list: Arc<WaiterList>,
    /// Waker that wakes all waiters.
    waker: Waker,
}

/// Position of one waiter in the list: the round that it belongs to, and its index.
#[derive(Debug, Default)]
pub(super) struct WaiterSlot(Option<(u64, usize)>);

#[derive(Default)]
struct WaiterList(Mutex<Round>);

#[derive(Default)]
struct Round {
    /// Number of times that the waiters have been woken.
    number: u64,
    wakers: Vec<Waker>,
}

impl WriteWaiters {
    pub(super) fn new() -> Self {
        let list = Arc::new(WaiterList::default());
        Self {
            waker: Waker::from(Arc::clone(&list)),
            list,
        }
    }

    /// Registers the task of `cx`, then calls `poll` with the shared waker.
    ///
    /// `slot` must belong to the caller. Polling again in the same round reuses it so that a
    /// session takes one slot even if it is polled for other reasons.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        slot: &mut WaiterSlot,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // registered before the poll, which may lead to a wake at once
        self.list.register(cx, slot);
        poll(&mut Context::from_waker(&self.waker))
    }
}

impl WaiterList {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, cx: &Context<'_>, slot: &mut WaiterSlot) {
        let mut round = self.lock();
        match slot.0 {
            Some((number, index)) if number == round.number => {
                round.wakers[index].clone_from(cx.waker());
            }
            _ => {
                slot.0 = Some((round.number, round.wakers.len()));
                round.wakers.push(cx.waker().clone());
            }
        }
    }
}

impl Wake for WaiterList {
    fn wake(self: Arc<Self>) {
        let mut round = self.lock();
        round.number += 1;
        let wakers = std::mem::take(&mut round.wakers);
        drop(round);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn each_waiter_is_woken_once_however_often_it_polled() {
        let waiters = WriteWaiters::new();
        let counts: [Arc<WakeCount>; 3] = Default::default();
        let mut slots: [WaiterSlot; 3] = Default::default();
        let poll = |count: &Arc<WakeCount>, slot: &mut WaiterSlot| {
            let waker = Waker::from(Arc::clone(count));
            let polled: Poll<()> =
                waiters.poll(&Context::from_waker(&waker), slot, |_| Poll::Pending);
            assert!(polled.is_pending());
        };
        for _ in 0..2 {
            for (count, slot) in counts.iter().zip(&mut slots) {
                poll(count, slot);
            }
        }
        assert_eq!(waiters.list.lock().wakers.len(), 3);

        waiters.waker.wake_by_ref();
        assert!(counts.iter().all(|count| count.0.load(SeqCst) == 1));

        poll(&counts[2], &mut slots[2]);
        waiters.waker.wake_by_ref();
        let counts = counts.map(|count| count.0.load(SeqCst));
        assert_eq!(counts, [1, 1, 2], "only the waiter of this round is woken");
    }
}
