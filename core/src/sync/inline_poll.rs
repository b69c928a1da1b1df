//! A task's future that another task can poll in its place.
//!
//! A task that is woken waits until the runtime schedules it. With several threads, the runtime
//! often wakes one of these threads too. A task that wakes another one for little work can do
//! that work at once instead. The reader of a UDP socket does so for its sessions.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        OnceLock, TryLockError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    task::{Context, Poll, Waker},
};

#[cfg(not(getty_loom))]
use std::sync::{Arc, Mutex, MutexGuard, atomic::fence};

#[cfg(getty_loom)]
use loom::sync::{Mutex, MutexGuard, atomic::fence};
#[cfg(getty_loom)]
use std::sync::Arc;

use tokio::runtime::{self, Handle};

use super::AtomicU8;
use crate::panic::{Panic, log};

/// Future that tasks other than its own can poll.
pub trait InlinePoll: Send + Sync {
    /// Polls the future at once, on a task of the runtime `here`, instead of waking `waker`.
    ///
    /// Wakes `waker` if that is not possible: if the future is being polled, belongs to another
    /// runtime, or contains parts with other wakers. The future's own task observes its end or its
    /// panic.
    fn poll_inline(&self, waker: Waker, here: runtime::Id);
}

/// Flag of [`SharedTask::requests`]: the task found the future being polled, and must be woken.
const WAKE: u8 = 1;
/// Flag of [`SharedTask::requests`]: the task was dropped, and the future must be dropped.
const DROP: u8 = 2;

/// Future of a task, for the task or thread that holds the lock.
pub struct SharedTask<F> {
    state: Mutex<State<F>>,
    /// Requests of the task while another thread polls. That thread serves them after it has
    /// unlocked.
    requests: AtomicU8,
    runtime: runtime::Id,
    /// Waker of the task, from its first poll on.
    waker: OnceLock<Waker>,
}

struct State<F> {
    /// `None` after the future has ended.
    future: Option<Pin<Box<F>>>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F: Future<Output = ()>> SharedTask<F> {
    /// Creates the shared state of a task that runs `future` on the current runtime.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    #[must_use]
    pub fn new(future: F) -> Arc<Self> {
        Self::on_runtime(future, Handle::current().id())
    }

    fn on_runtime(future: F, runtime: runtime::Id) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                future: Some(Box::pin(future)),
                panic: None,
            }),
            requests: AtomicU8::new(0),
            runtime,
            waker: OnceLock::new(),
        })
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State<F>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Locks the state, or leaves `request` to the thread that holds the lock. Called by the task.
    ///
    /// Either the second attempt succeeds because the lock was released, or the holder reads the
    /// request after it was written: both sides have a fence between their two accesses.
    fn lock_or_request(&self, request: u8) -> Option<MutexGuard<'_, State<F>>> {
        self.try_lock().or_else(|| {
            self.requests.fetch_or(request, SeqCst);
            fence(SeqCst);
            self.try_lock()
        })
    }

    /// Takes the requests of the task. Called by other threads after they have unlocked.
    fn take_requests(&self) -> u8 {
        fence(SeqCst);
        match self.requests.load(Relaxed) {
            0 => 0,
            _ => self.requests.swap(0, SeqCst),
        }
    }

    /// Polls the future with `waker`, which must be the waker of its task.
    fn poll_locked(&self, waker: Waker) {
        let Some(mut state) = self.try_lock() else {
            return waker.wake();
        };
        let ended = state.poll(&waker).is_ready();
        drop(state);
        let requests = self.take_requests();
        if requests & DROP != 0 {
            let future = self.try_lock().and_then(|mut state| state.future.take());
            drop_aborted(future);
        } else if ended || requests & WAKE != 0 {
            waker.wake();
        }
    }
}

impl<F: Future<Output = ()>> State<F> {
    /// Polls the future and drops it at its end. Keeps a panic.
    fn poll(&mut self, waker: &Waker) -> Poll<()> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(());
        };
        let mut cx = Context::from_waker(waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            return Poll::Pending;
        }
        let future = self.future.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        self.panic = polled.err().or(dropped.err());
        Poll::Ready(())
    }
}

impl<F: Future<Output = ()> + Send> InlinePoll for SharedTask<F> {
    fn poll_inline(&self, waker: Waker, here: runtime::Id) {
        let own = self.waker.get();
        if self.runtime != here || !own.is_some_and(|own| own.will_wake(&waker)) {
            return waker.wake();
        }
        self.poll_locked(waker);
    }
}

impl<F> fmt::Debug for SharedTask<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTask").finish_non_exhaustive()
    }
}

/// Future that the task itself polls.
///
/// Dropping it drops the shared future. If another thread polls that future at the moment, this
/// thread drops it after the poll.
#[must_use = "futures do nothing unless polled"]
pub struct TaskFuture<F: Future<Output = ()>>(Arc<SharedTask<F>>);

impl<F: Future<Output = ()>> TaskFuture<F> {
    /// Creates the task's side of `shared`. A shared future has one such side.
    pub const fn new(shared: Arc<SharedTask<F>>) -> Self {
        Self(shared)
    }
}

impl<F: Future<Output = ()>> Future for TaskFuture<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // a task has one waker during its life
        self.0.waker.get_or_init(|| cx.waker().clone());
        let Some(mut state) = self.0.lock_or_request(WAKE) else {
            return Poll::Pending;
        };
        let polled = state.poll(cx.waker());
        let panic = state.panic.take();
        drop(state);
        match panic {
            Some(panic) => resume_unwind(panic),
            None => polled,
        }
    }
}

impl<F: Future<Output = ()>> Drop for TaskFuture<F> {
    fn drop(&mut self) {
        let future = self
            .0
            .lock_or_request(DROP)
            .and_then(|mut state| state.future.take());
        drop_aborted(future);
    }
}

impl<F: Future<Output = ()>> fmt::Debug for TaskFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskFuture").field(&self.0).finish()
    }
}

/// Drops the future of an aborted task. Logs a panic of its destructor, on which nothing
/// depends.
fn drop_aborted<F>(future: Option<Pin<Box<F>>>) {
    if let Err(panic) = Panic::catch(|| drop(future)) {
        log(|| tracing::error!(%panic, "a connection panicked while it was aborted"));
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::future::poll_fn;

    use loom::{
        future::block_on,
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use super::*;

    fn id() -> runtime::Id {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.handle().id()
    }

    /// One thread wakes the task while another polls its future inline. The future sees the work of
    /// both, or loom reports a task that is never woken.
    #[test]
    fn a_wake_up_during_an_inline_poll_is_not_lost() {
        let id = id();
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let work = loom::sync::Arc::new(AtomicUsize::new(0));
            let waker = loom::sync::Arc::new(Mutex::new(None::<Waker>));
            let (seen, registered) = (work.clone(), waker.clone());
            let future = poll_fn(move |cx| {
                *registered.lock().unwrap() = Some(cx.waker().clone());
                let work = seen.load(SeqCst);
                // a point at which loom can switch threads, as the rest of a poll has many
                seen.load(SeqCst);
                match work {
                    2 => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            });
            let shared = SharedTask::on_runtime(future, id);
            let task = TaskFuture::new(Arc::clone(&shared));
            let polls_inline = {
                let (work, waker) = (work.clone(), waker.clone());
                thread::spawn(move || {
                    work.fetch_add(1, SeqCst);
                    let waker = waker.lock().unwrap().take();
                    if let Some(waker) = waker {
                        shared.poll_locked(waker);
                    }
                })
            };
            let wakes = thread::spawn(move || {
                work.fetch_add(1, SeqCst);
                let waker = waker.lock().unwrap().take();
                waker.into_iter().for_each(Waker::wake);
            });
            block_on(task);
            polls_inline.join().unwrap();
            wakes.join().unwrap();
        });
    }

    /// The task is dropped while another thread polls. One of the two drops the future.
    #[test]
    fn an_aborted_task_drops_its_future() {
        struct Dropped(loom::sync::Arc<AtomicBool>);

        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }

        let id = id();
        loom::model(move || {
            let dropped = loom::sync::Arc::new(AtomicBool::new(false));
            let value = Dropped(dropped.clone());
            let future = poll_fn(move |_| {
                let _ = &value;
                Poll::Pending
            });
            let shared = SharedTask::on_runtime(future, id);
            let task = TaskFuture::new(Arc::clone(&shared));
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.poll_locked(Waker::noop().clone()))
            };
            drop(task);
            other.join().unwrap();
            assert!(dropped.load(SeqCst));
        });
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, AtomicUsize},
            mpsc,
        },
        thread,
    };

    use tokio::{
        task::{JoinHandle, yield_now},
        time::timeout,
    };

    use super::*;

    /// State that a test shares with its future.
    #[derive(Default)]
    struct Probe {
        polls: AtomicUsize,
        waker: Mutex<Option<Waker>>,
        /// The next poll ends the future.
        end: AtomicBool,
        /// The next poll panics.
        panic: AtomicBool,
        dropped: AtomicBool,
        /// Stops the next poll: it signals its begin and waits for a signal to go on.
        stop: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    }

    struct Probed(Arc<Probe>);

    impl Future for Probed {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let probe = &self.0;
            probe.polls.fetch_add(1, SeqCst);
            *probe.waker.lock().unwrap() = Some(cx.waker().clone());
            assert!(!probe.panic.load(SeqCst), "the test asked for a panic");
            if let Some((begun, go_on)) = probe.stop.lock().unwrap().take() {
                begun.send(()).unwrap();
                go_on.recv().unwrap();
            }
            if probe.end.load(SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    impl Drop for Probed {
        fn drop(&mut self) {
            self.0.dropped.store(true, SeqCst);
        }
    }

    impl Probe {
        fn waker(&self) -> Waker {
            self.waker.lock().unwrap().clone().unwrap()
        }

        fn polls(&self) -> usize {
            self.polls.load(SeqCst)
        }

        fn stop_next_poll(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
            let (begun, has_begun) = mpsc::channel();
            let (resume, go_on) = mpsc::channel();
            *self.stop.lock().unwrap() = Some((begun, go_on));
            (has_begun, resume)
        }
    }

    /// Starts a task and polls it once.
    async fn started() -> (Arc<Probe>, Arc<SharedTask<Probed>>, JoinHandle<()>) {
        let probe = Arc::<Probe>::default();
        let shared = SharedTask::new(Probed(Arc::clone(&probe)));
        let task = tokio::spawn(TaskFuture::new(Arc::clone(&shared)));
        while probe.polls() == 0 {
            yield_now().await;
        }
        (probe, shared, task)
    }

    fn here() -> runtime::Id {
        Handle::current().id()
    }

    #[tokio::test]
    async fn an_inline_poll_does_not_wake_the_task() {
        let (probe, shared, _task) = started().await;
        shared.poll_inline(probe.waker(), here());
        assert_eq!(probe.polls(), 2, "it was polled at once");
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(probe.polls(), 2);
    }

    #[tokio::test]
    async fn an_end_in_an_inline_poll_drops_the_future_and_ends_the_task() {
        let (probe, shared, task) = started().await;
        probe.end.store(true, SeqCst);
        shared.poll_inline(probe.waker(), here());
        assert!(probe.dropped.load(SeqCst));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_an_inline_poll_is_observed_by_the_task() {
        let (probe, shared, task) = started().await;
        probe.panic.store(true, SeqCst);
        shared.poll_inline(probe.waker(), here());
        assert!(probe.dropped.load(SeqCst));
        assert!(task.await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn a_waker_of_another_task_is_woken() {
        let (probe, shared, _task) = started().await;
        let other = Arc::new(Flag::default());
        shared.poll_inline(Waker::from(Arc::clone(&other)), here());
        assert!(other.0.load(SeqCst));
        assert_eq!(probe.polls(), 1);
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[tokio::test]
    async fn a_task_of_another_runtime_is_woken() {
        let (probe, shared, _task) = started().await;
        let waker = probe.waker();
        let polls = thread::spawn({
            let probe = Arc::clone(&probe);
            move || {
                let other = runtime::Builder::new_current_thread().build().unwrap();
                other.block_on(async { shared.poll_inline(waker, here()) });
                probe.polls()
            }
        });
        assert_eq!(
            polls.join().unwrap(),
            1,
            "the other runtime does not poll it"
        );
        while probe.polls() == 1 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_task_that_is_woken_during_an_inline_poll_runs_afterwards() {
        let (probe, shared, _task) = started().await;
        let (begun, go_on) = probe.stop_next_poll();
        let (waker, here) = (probe.waker(), here());
        let other = thread::spawn(move || shared.poll_inline(waker, here));
        begun.recv().unwrap();
        probe.waker().wake();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(probe.polls(), 2, "the poll is stopped");
        go_on.send(()).unwrap();
        let next_poll = async {
            while probe.polls() == 2 {
                yield_now().await;
            }
        };
        timeout(std::time::Duration::from_secs(30), next_poll)
            .await
            .expect("a wake-up was lost");
        other.join().unwrap();
    }

    #[tokio::test]
    async fn a_task_aborted_during_an_inline_poll_drops_its_future_afterwards() {
        let (probe, shared, task) = started().await;
        let (begun, go_on) = probe.stop_next_poll();
        let (waker, here) = (probe.waker(), here());
        let other = thread::spawn(move || shared.poll_inline(waker, here));
        begun.recv().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!probe.dropped.load(SeqCst), "it is being polled");
        go_on.send(()).unwrap();
        other.join().unwrap();
        assert!(probe.dropped.load(SeqCst));
    }

    #[tokio::test]
    async fn an_aborted_task_drops_its_future() {
        let (probe, shared, task) = started().await;
        let waker = probe.waker();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(probe.dropped.load(SeqCst));
        shared.poll_inline(waker, here());
        assert_eq!(probe.polls(), 1);
    }
}
