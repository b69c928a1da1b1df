//! What becomes of messages whose senders wait for something else: of requests, whose answers say that they have left.
//!
//! Such messages are numbered as they are queued, and leave in that order. So one number, that of the last to have left,
//! tells of each whether it has: nothing is kept for a message, nor locked, as long as all goes well. Failures lie here
//! until they are asked for, and whoever may have to ask is woken. Only once no answer can come any more do senders wait
//! here for their messages to leave; from then on the driver looks for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::error::SendFailure;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The requests of a session that wait for answers of one type.
pub(crate) trait PendingRequests: Send + Sync {
    /// Wakes all requests, so that each checks whether its message has failed.
    fn wake_all(&self);

    /// Returns the number of requests without an answer.
    fn unanswered(&self) -> usize;
}

impl fmt::Debug for dyn PendingRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingRequests")
    }
}

/// Which of the watched messages of a session: they count from 1.
pub(crate) type Number = u64;

#[derive(Debug)]
pub(crate) struct Watched<Out> {
    /// The last that has left; failures among those before it lie below.
    left: AtomicU64,
    /// How many turns the driver had that something was queued for.
    turns: AtomicU64,
    rest: Mutex<Rest<Out>>,
}

#[derive(Debug)]
struct Rest<Out> {
    /// What has not left will not.
    ended: bool,
    /// From the first request on.
    lists: Option<Box<Lists<Out>>>,
}

#[derive(Debug)]
struct Lists<Out> {
    failed: BTreeMap<Number, SendFailure<Out>>,
    /// Nobody will ask for these, should they fail yet.
    abandoned: BTreeSet<Number>,
    waiting: BTreeMap<Number, Waker>,
    /// Woken for failures. One for each type of answers.
    requests: Vec<Arc<dyn PendingRequests>>,
}

impl<Out> Default for Lists<Out> {
    fn default() -> Self {
        Self {
            failed: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            waiting: BTreeMap::new(),
            requests: Vec::new(),
        }
    }
}

impl<Out> Watched<Out> {
    pub(crate) fn new() -> Self {
        Self {
            left: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            rest: Mutex::new(Rest {
                ended: false,
                lists: None,
            }),
        }
    }

    // the senders' side

    /// How many turns the driver had that something was queued for: as long as that is the same after something was queued,
    /// it has yet to come.
    #[inline]
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Wakes `requests` for each failure, and now if there is one.
    pub(crate) fn add(&self, requests: &Arc<impl PendingRequests + 'static>) {
        let mut rest = self.rest.lock();
        let ended = rest.ended;
        let lists = rest.lists.get_or_insert_default();
        let failed = !lists.failed.is_empty();
        if !ended {
            lists.requests.push(requests.clone());
        }
        drop(rest);
        if failed || ended {
            requests.wake_all();
        }
    }

    /// Returns the number of requests without an answer. Locks their tables under this lock.
    pub(crate) fn unanswered(&self) -> usize {
        let rest = self.rest.lock();
        let requests = rest.lists.iter().flat_map(|lists| &lists.requests);
        requests.map(|requests| requests.unanswered()).sum()
    }

    /// Why a message was not sent, where that is known.
    pub(crate) fn failure(&self, number: Number) -> Option<SendFailure<Out>> {
        self.rest.lock().lists.as_mut()?.failed.remove(&number)
    }

    /// Whether a message has left; where it has not, it may yet.
    pub(crate) fn has_left(&self, number: Number) -> bool {
        let rest = self.rest.lock();
        let lists = rest.lists.as_ref();
        let failed = lists.is_some_and(|lists| lists.failed.contains_key(&number));
        !failed && number <= self.left.load(Ordering::Acquire)
    }

    /// What became of a message: it has left, it was not sent, or `cx` is woken when that is known. To be asked once no
    /// more will be received: see [`leave`](Self::leave).
    pub(crate) fn poll(
        &self,
        cx: &Context<'_>,
        number: Number,
    ) -> Poll<Result<(), SendFailure<Out>>> {
        let mut rest = self.rest.lock();
        let ended = rest.ended;
        let lists = rest.lists.get_or_insert_default();
        if let Some(failure) = lists.failed.remove(&number) {
            return Poll::Ready(Err(failure));
        }
        if number <= self.left.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if ended {
            return Poll::Ready(Err(SendFailure::Closed(None)));
        }
        let old = lists.waiting.insert(number, cx.waker().clone());
        drop(rest);
        drop(old);
        Poll::Pending
    }

    /// Nobody asks any more.
    pub(crate) fn abandon(&self, number: Number) {
        let mut rest = self.rest.lock();
        let ended = rest.ended;
        let lists = rest.lists.get_or_insert_default();
        let waker = lists.waiting.remove(&number);
        let failure = lists.failed.remove(&number);
        if failure.is_none() && !ended {
            let left = self.left.load(Ordering::Acquire);
            while lists.abandoned.first().is_some_and(|first| *first <= left) {
                lists.abandoned.pop_first();
            }
            if number > left {
                lists.abandoned.insert(number);
            }
        }
        drop(rest);
        drop((waker, failure)); // may hold the user's message
    }

    // the driver's side

    /// The driver has its turn and takes what is queued. There is one driver, so that this is no exchange.
    #[inline]
    pub(crate) fn turn(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns + 1, Ordering::Release);
    }

    /// A message has left, and all before it that have not failed. `awaited` once senders may wait for that: once it was
    /// said that no more will be received.
    #[inline]
    pub(crate) fn leave(&self, number: Number, awaited: bool) {
        if awaited {
            self.leave_awaited(number);
        } else {
            self.left.store(number, Ordering::Release);
        }
    }

    #[cold]
    fn leave_awaited(&self, number: Number) {
        let mut rest = self.rest.lock();
        self.left.store(number, Ordering::Release);
        let Some(lists) = &mut rest.lists else {
            return;
        };
        let later = lists.waiting.split_off(&(number + 1));
        let woken = std::mem::replace(&mut lists.waiting, later);
        drop(rest);
        woken.into_values().for_each(Waker::wake);
    }

    /// A message will not leave.
    #[cold]
    pub(crate) fn fail(&self, number: Number, failure: SendFailure<Out>) {
        let mut rest = self.rest.lock();
        let lists = rest.lists.get_or_insert_default();
        if lists.abandoned.remove(&number) {
            drop(rest);
            drop(failure); // may hold the user's message
            return;
        }
        lists.failed.insert(number, failure);
        let waiting = lists.waiting.remove(&number);
        let requests = lists.requests.clone();
        drop(rest);
        waiting.into_iter().for_each(Waker::wake);
        requests.iter().for_each(|requests| requests.wake_all());
    }

    /// The end: what has not left by now will not, and nobody needs to be told of later.
    pub(crate) fn end(&self) {
        let mut rest = self.rest.lock();
        rest.ended = true;
        let Some(lists) = &mut rest.lists else {
            return;
        };
        let waiting = std::mem::take(&mut lists.waiting);
        let requests = std::mem::take(&mut lists.requests);
        drop(rest);
        waiting.into_values().for_each(Waker::wake);
        requests.iter().for_each(|requests| requests.wake_all());
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::session::payload::Payload;

    fn refused() -> SendFailure<&'static str> {
        SendFailure::Encode(Arc::new(fmt::Error))
    }

    #[test]
    fn a_failure_before_one_that_has_left_is_not_taken_for_left() {
        let watched = Watched::new();
        watched.leave(1, false);
        watched.fail(2, refused());
        watched.leave(3, false);
        assert!(watched.has_left(1) && !watched.has_left(2) && watched.has_left(3));
        assert!(!watched.has_left(4));
        assert!(matches!(watched.failure(2), Some(SendFailure::Encode(_))));
        assert!(watched.failure(2).is_none(), "it is taken once");
    }

    #[test]
    fn requests_learn_of_failures_also_of_earlier_ones() {
        #[derive(Default)]
        struct Woken(AtomicU64);

        impl PendingRequests for Woken {
            fn wake_all(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }

            fn unanswered(&self) -> usize {
                2
            }
        }

        let watched = Watched::new();
        let [early, late] = [(); 2].map(|()| Arc::new(Woken::default()));
        let woken = |requests: &Woken| requests.0.load(Ordering::Relaxed);
        watched.add(&early);
        assert_eq!((woken(&early), watched.unanswered()), (0, 2));
        watched.fail(1, refused());
        assert_eq!(woken(&early), 1);
        watched.add(&late);
        assert_eq!((woken(&late), watched.unanswered()), (1, 4));
        watched.end();
        assert_eq!((woken(&early), woken(&late)), (2, 2));
        assert_eq!(watched.unanswered(), 0);
    }

    #[test]
    fn who_waits_learns_that_it_left_or_that_it_will_not() {
        let watched = Watched::new();
        let mut tasks = [1, 2, 3].map(|_| task::spawn(()));
        for (number, task) in (1..).zip(&mut tasks) {
            assert_pending!(task.enter(|cx, _| watched.poll(cx, number)));
        }
        watched.leave(1, true);
        watched.fail(2, SendFailure::Closed(Some(Payload::Message("back"))));
        assert!(tasks[0].is_woken() && tasks[1].is_woken() && !tasks[2].is_woken());
        watched.end();
        assert!(tasks[2].is_woken());
        let outcomes = [0, 1, 2].map(|n| {
            let number = n as u64 + 1;
            assert_ready!(tasks[n].enter(|cx, _| watched.poll(cx, number)))
        });
        assert!(matches!(
            outcomes,
            [
                Ok(()),
                Err(SendFailure::Closed(Some(Payload::Message("back")))),
                Err(SendFailure::Closed(None)),
            ]
        ));
    }

    #[test]
    fn a_request_whose_destructor_panics_keeps_nobody_from_learning_the_end() {
        #[derive(Debug)]
        struct Bomb(bool);

        impl Drop for Bomb {
            fn drop(&mut self) {
                assert!(!self.0, "boom");
            }
        }

        let connection = crate::Connection::new(());
        let (session, driver) = crate::session::driver::pair(connection.handle().clone());
        for (number, bomb) in [(1, true), (2, false)] {
            let pushed = session.outbox().push_watched(&mut Some(Bomb(bomb)));
            assert_eq!(pushed, Some(number));
        }
        session.watched().abandon(1);
        let mut waits = task::spawn(());
        assert_pending!(waits.enter(|cx, _| session.watched().poll(cx, 2)));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(driver)));
        assert!(waits.is_woken());
        let outcome = assert_ready!(waits.enter(|cx, _| session.watched().poll(cx, 2)));
        assert!(matches!(outcome, Err(SendFailure::Closed(Some(_)))));
        assert!(ended.is_ok(), "it goes no further");
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_asks_for() {
        let watched = Watched::new();
        for number in 1..=100 {
            watched.abandon(number);
        }
        for number in 1..=50 {
            watched.fail(number, refused());
        }
        watched.leave(100, false);
        watched.abandon(101);
        watched.fail(101, refused());
        watched.fail(102, refused());
        watched.abandon(102);
        let rest = watched.rest.lock();
        let lists = rest.lists.as_ref().unwrap();
        assert!(lists.failed.is_empty() && lists.abandoned.is_empty());
    }
}
