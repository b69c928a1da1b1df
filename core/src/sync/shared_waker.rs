//! One waker for many tasks, for a resource that keeps the waker of a single task.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use super::{Mutex, WaiterId, WaiterQueue};

/// Tasks that wait for one resource, and the waker with which all of them poll it.
///
/// tokio keeps one waker for each socket and direction, the one of the last poll. With the
/// shared waker it wakes all tasks (design.md: Why do UDP sessions send by themselves?).
pub struct SharedWaker {
    waiters: Arc<Waiters>,
    /// Waker that wakes all waiters.
    waker: Waker,
}

#[derive(Default)]
struct Waiters(Mutex<WaiterQueue>);

impl SharedWaker {
    /// Creates a waker that no task waits for.
    #[must_use]
    pub fn new() -> Self {
        let waiters = Arc::<Waiters>::default();
        Self {
            waker: Waker::from(Arc::clone(&waiters)),
            waiters,
        }
    }

    /// Registers the task of `cx`, then calls `poll` with the shared waker.
    ///
    /// `waiter` must belong to the caller. Polling again before the next wake-up reuses it, so
    /// that a task is registered once even if it is polled for other reasons.
    pub fn poll<T>(
        &self,
        cx: &Context<'_>,
        waiter: &mut Option<WaiterId>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // registered before the poll, which may lead to a wake-up at once
        self.register(cx, waiter);
        poll(&mut Context::from_waker(&self.waker))
    }

    fn register(&self, cx: &Context<'_>, waiter: &mut Option<WaiterId>) {
        let mut waiters = self.waiters.0.lock();
        // a wake-up has removed the waiters that were registered before it
        let position = waiter.and_then(|id| waiters.position(id));
        let replaced = waiters.register(position, waiter, cx);
        drop(waiters);
        drop(replaced);
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        let woken = self.0.lock().remove_all();
        woken.for_each(Waker::wake);
    }
}

impl Default for SharedWaker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SharedWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWaker").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
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
        let shared = SharedWaker::new();
        let counts: [Arc<WakeCount>; 3] = Default::default();
        let mut ids: [Option<WaiterId>; 3] = Default::default();
        let poll = |count: &Arc<WakeCount>, id: &mut Option<WaiterId>| {
            let waker = Waker::from(Arc::clone(count));
            let polled: Poll<()> = shared.poll(&Context::from_waker(&waker), id, |_| Poll::Pending);
            assert!(polled.is_pending());
        };
        for _ in 0..2 {
            for (count, id) in counts.iter().zip(&mut ids) {
                poll(count, id);
            }
        }
        assert_eq!(shared.waiters.0.lock().len(), 3);

        shared.waker.wake_by_ref();
        assert!(counts.iter().all(|count| count.0.load(SeqCst) == 1));
        assert!(shared.waiters.0.lock().is_empty());

        poll(&counts[2], &mut ids[2]);
        shared.waker.wake_by_ref();
        let counts = counts.map(|count| count.0.load(SeqCst));
        assert_eq!(
            counts,
            [1, 1, 2],
            "only the task that polled since is woken"
        );
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::future::poll_fn;

    use loom::{future::block_on, thread};

    use super::*;

    /// A resource that keeps the waker of the last poll, as a socket of tokio does.
    #[derive(Default)]
    struct Resource {
        is_ready: bool,
        waker: Option<Waker>,
    }

    fn poll_ready(resource: &Mutex<Resource>, cx: &Context<'_>) -> Poll<()> {
        let mut resource = resource.lock();
        if resource.is_ready {
            return Poll::Ready(());
        }
        resource.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The resource becomes ready while two tasks begin to wait. None of them sleeps on.
    #[test]
    fn resource_that_becomes_ready_wakes_all_tasks() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = loom::sync::Arc::new((
                SharedWaker::new(),
                Mutex::<Resource>::new(Resource::default()),
            ));
            let waits = {
                let shared = shared.clone();
                move || {
                    let (waker, resource) = &*shared;
                    let mut waiter = None;
                    block_on(poll_fn(|cx| {
                        waker.poll(cx, &mut waiter, |cx| poll_ready(resource, cx))
                    }));
                }
            };
            let first = thread::spawn(waits.clone());
            let second = thread::spawn(waits);
            let mut resource = shared.1.lock();
            resource.is_ready = true;
            let waker = resource.waker.take();
            drop(resource);
            waker.into_iter().for_each(Waker::wake);
            first.join().unwrap();
            second.join().unwrap();
        });
    }
}
