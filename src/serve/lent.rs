//! A connection's future that another task may poll in place of its own.
//!
//! A task that is woken waits for its turn, and with several threads the runtime often wakes one of those, too. Whoever
//! wakes a session for little work may as well do that work here and now: see the reader of a UDP socket.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, TryLockError,
        atomic::{
            AtomicU8,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    task::{Context, Poll, Waker},
};

use getty_core::Panic;
use tokio::runtime::{self, Handle};

/// A future that others than its task may poll.
pub(crate) trait Lend: Send + Sync {
    /// Does what `waker` would bring about here and now, on a task of runtime `here`. Where that cannot be, because the
    /// future is being polled, belongs to another runtime, or has parts with wakers of their own, `waker` is woken.
    ///
    /// How the future ends, or panics, is its task's to see.
    fn poll_in_place(&self, waker: Waker, here: runtime::Id);
}

/// The task found the future being polled, and wants a turn.
const WANTED: u8 = 1;
/// The task is gone.
const ABANDONED: u8 = 2;

/// The future of a task, for whoever locks it.
pub(super) struct Lent<F> {
    state: Mutex<State<F>>,
    /// What the task could not do while another polled; that one does it, once it has unlocked.
    asked: AtomicU8,
    runtime: runtime::Id,
    /// The task's, once it has been polled.
    waker: OnceLock<Waker>,
}

struct State<F> {
    /// None once it has ended.
    future: Option<Pin<Box<F>>>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F: Future<Output = ()>> Lent<F> {
    /// Panics outside of a runtime.
    pub(super) fn new(future: F) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                future: Some(Box::pin(future)),
                panic: None,
            }),
            asked: AtomicU8::new(0),
            runtime: Handle::current().id(),
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

    /// For the task: locks, or leaves word with whoever has locked.
    ///
    /// Either the second attempt comes after their unlocking, or they look for the word after it was left.
    fn lock_or_ask(&self, what: u8) -> Option<MutexGuard<'_, State<F>>> {
        self.try_lock().or_else(|| {
            self.asked.fetch_or(what, SeqCst);
            fence(SeqCst);
            self.try_lock()
        })
    }

    /// For others than the task, once they have unlocked: what the task has left word of.
    fn asked(&self) -> u8 {
        fence(SeqCst);
        match self.asked.load(Relaxed) {
            0 => 0,
            _ => self.asked.swap(0, SeqCst),
        }
    }
}

impl<F: Future<Output = ()>> State<F> {
    /// Polls the future, and drops it at its end; a panic is kept.
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

impl<F: Future<Output = ()> + Send> Lend for Lent<F> {
    fn poll_in_place(&self, waker: Waker, here: runtime::Id) {
        let own = self.waker.get();
        if self.runtime != here || !own.is_some_and(|own| own.will_wake(&waker)) {
            return waker.wake();
        }
        let Some(mut state) = self.try_lock() else {
            return waker.wake();
        };
        let ended = state.poll(&waker).is_ready();
        drop(state);
        let asked = self.asked();
        if asked & ABANDONED != 0 {
            let future = self.try_lock().and_then(|mut state| state.future.take());
            drop_aborted(future);
        } else if ended || asked & WANTED != 0 {
            waker.wake();
        }
    }
}

/// What the task itself polls.
pub(super) struct Owner<F: Future<Output = ()>>(pub(super) Arc<Lent<F>>);

impl<F: Future<Output = ()>> Future for Owner<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // a task has one waker as long as it lives
        self.0.waker.get_or_init(|| cx.waker().clone());
        let Some(mut state) = self.0.lock_or_ask(WANTED) else {
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

/// An aborted task takes its future with it; if another polls it at the moment, that one does once it has done so.
impl<F: Future<Output = ()>> Drop for Owner<F> {
    fn drop(&mut self) {
        let future = self
            .0
            .lock_or_ask(ABANDONED)
            .and_then(|mut state| state.future.take());
        drop_aborted(future);
    }
}

/// Drops a connection whose task was aborted. A panic in a destructor is logged: nothing here
/// depends on it.
fn drop_aborted<F>(future: Option<Pin<Box<F>>>) {
    if let Err(panic) = Panic::catch(|| drop(future)) {
        tracing::error!(%panic, "a connection panicked as it was aborted");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, AtomicUsize},
            mpsc,
        },
        thread,
    };

    use futures_util::task::AtomicWaker;
    use tokio::{
        task::{JoinHandle, yield_now},
        time::timeout,
    };

    use super::*;

    /// What a test and its future share.
    #[derive(Default)]
    struct Probe {
        polls: AtomicUsize,
        waker: AtomicWaker,
        /// What the next poll is to do.
        end: AtomicBool,
        panic: AtomicBool,
        gone: AtomicBool,
        /// Where a poll is held up: it says that it has begun, and waits for a word.
        held: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    }

    struct Probed(Arc<Probe>);

    impl Future for Probed {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let probe = &self.0;
            probe.polls.fetch_add(1, SeqCst);
            probe.waker.register(cx.waker());
            assert!(!probe.panic.load(SeqCst), "it was asked to");
            if let Some((begun, go_on)) = probe.held.lock().unwrap().take() {
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
            self.0.gone.store(true, SeqCst);
        }
    }

    impl Probe {
        fn polls(&self) -> usize {
            self.polls.load(SeqCst)
        }

        fn hold(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
            let (begun, has_begun) = mpsc::channel();
            let (word, go_on) = mpsc::channel();
            *self.held.lock().unwrap() = Some((begun, go_on));
            (has_begun, word)
        }
    }

    /// A task that has been polled once.
    async fn started() -> (Arc<Probe>, Arc<Lent<Probed>>, JoinHandle<()>) {
        let probe = Arc::<Probe>::default();
        let lent = Lent::new(Probed(Arc::clone(&probe)));
        let task = tokio::spawn(Owner(Arc::clone(&lent)));
        while probe.polls() == 0 {
            yield_now().await;
        }
        (probe, lent, task)
    }

    fn here() -> runtime::Id {
        Handle::current().id()
    }

    #[tokio::test]
    async fn future_is_polled_in_place_and_its_task_is_left_asleep() {
        let (probe, lent, _task) = started().await;
        lent.poll_in_place(probe.waker.take().unwrap(), here());
        assert_eq!(probe.polls(), 2, "here and now");
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(probe.polls(), 2);
    }

    #[tokio::test]
    async fn end_in_place_drops_the_future_at_once_and_ends_the_task() {
        let (probe, lent, task) = started().await;
        probe.end.store(true, SeqCst);
        lent.poll_in_place(probe.waker.take().unwrap(), here());
        assert!(probe.gone.load(SeqCst));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn panic_in_place_is_the_task_s() {
        let (probe, lent, task) = started().await;
        probe.panic.store(true, SeqCst);
        lent.poll_in_place(probe.waker.take().unwrap(), here());
        assert!(probe.gone.load(SeqCst));
        assert!(task.await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn waker_of_another_is_woken_instead() {
        let (probe, lent, _task) = started().await;
        let other = Arc::new(Woken::default());
        lent.poll_in_place(Waker::from(Arc::clone(&other)), here());
        assert!(other.0.load(SeqCst));
        assert_eq!(probe.polls(), 1);
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[tokio::test]
    async fn task_of_another_runtime_is_woken_instead() {
        let (probe, lent, _task) = started().await;
        let waker = probe.waker.take().unwrap();
        let polls = thread::spawn({
            let probe = Arc::clone(&probe);
            move || {
                let other = runtime::Builder::new_current_thread().build().unwrap();
                other.block_on(async { lent.poll_in_place(waker, here()) });
                probe.polls()
            }
        });
        assert_eq!(polls.join().unwrap(), 1, "not there");
        while probe.polls() == 1 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn task_that_wakes_while_another_polls_has_its_turn_afterwards() {
        let (probe, lent, _task) = started().await;
        let (begun, go_on) = probe.hold();
        let (waker, here) = (probe.waker.take().unwrap(), here());
        let other = thread::spawn(move || lent.poll_in_place(waker, here));
        begun.recv().unwrap();
        probe.waker.wake();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(probe.polls(), 2, "it is held up");
        go_on.send(()).unwrap();
        let turn = async {
            while probe.polls() == 2 {
                yield_now().await;
            }
        };
        timeout(std::time::Duration::from_secs(30), turn)
            .await
            .expect("a wake-up was lost");
        other.join().unwrap();
    }

    #[tokio::test]
    async fn task_aborted_while_another_polls_ends_at_once_and_the_future_afterwards() {
        let (probe, lent, task) = started().await;
        let (begun, go_on) = probe.hold();
        let (waker, here) = (probe.waker.take().unwrap(), here());
        let other = thread::spawn(move || lent.poll_in_place(waker, here));
        begun.recv().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!probe.gone.load(SeqCst), "it is being polled");
        go_on.send(()).unwrap();
        other.join().unwrap();
        assert!(probe.gone.load(SeqCst));
    }

    #[tokio::test]
    async fn aborted_task_takes_its_future_with_it() {
        let (probe, lent, task) = started().await;
        let waker = probe.waker.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(probe.gone.load(SeqCst));
        lent.poll_in_place(waker, here());
        assert_eq!(probe.polls(), 1);
    }
}
