//! Send outcomes of requests.
//!
//! A requester awaits the response, which implies that the request was sent. So only failures
//! are stored.
//!
//! Requests are numbered in the order in which they are queued and sent. The number of the
//! last sent request is therefore enough to know whether a request was sent: without failures
//! nothing is stored for a request, and nothing is locked (design.md: How does a request know
//! whether it was sent?). Failures are stored until the requester takes them, and its task is
//! woken. Once the input has ended and no response can arrive, requesters wait here for the
//! outcome of the send. The driver wakes them from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::payload::SendFailure;
use crate::{
    connection::RequestNumber,
    sync::{Lazy, Mutex, Progress},
};

/// Requests of a session that await responses of one type.
pub(crate) trait PendingRequests: Send + Sync {
    /// Wakes all requests so that each checks whether it has failed.
    fn wake_all(&self);

    /// Returns the number of requests without a response.
    fn pending(&self) -> usize;
}

impl fmt::Debug for dyn PendingRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingRequests")
    }
}

#[derive(Debug)]
pub(crate) struct RequestOutcomes<Out> {
    /// Number of the last request that was sent. Earlier requests may have failed.
    sent: Progress,
    /// Number of driver polls that found a signal.
    polls: Progress,
    locked: Mutex<LockedOutcomes<Out>>,
}

#[derive(Debug)]
struct LockedOutcomes<Out> {
    /// `true` once no further request will be sent.
    ended: bool,
    /// Created with the first request.
    lists: Lazy<OutcomeLists<Out>>,
}

#[derive(Debug)]
struct OutcomeLists<Out> {
    failed: BTreeMap<RequestNumber, SendFailure<Out>>,
    /// Requests whose failures will not be taken.
    abandoned: BTreeSet<RequestNumber>,
    waiting: BTreeMap<RequestNumber, Waker>,
    /// Woken for failures. One for each type of responses.
    requests: Vec<Arc<dyn PendingRequests>>,
}

impl<Out> Default for OutcomeLists<Out> {
    fn default() -> Self {
        Self {
            failed: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            waiting: BTreeMap::new(),
            requests: Vec::new(),
        }
    }
}

impl<Out> RequestOutcomes<Out> {
    pub(crate) fn new() -> Self {
        Self {
            sent: Progress::new(),
            polls: Progress::new(),
            locked: Mutex::new(LockedOutcomes {
                ended: false,
                lists: Lazy::new(),
            }),
        }
    }

    // Methods for senders.

    /// Returns the number of driver polls that found a signal. While it is unchanged after a
    /// request was queued, the driver has not taken the request.
    #[inline]
    pub(crate) fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Adds requests to wake for each failure. Wakes them now if there is one.
    pub(crate) fn add(&self, requests: &Arc<impl PendingRequests + 'static>) {
        let mut locked = self.locked.lock();
        let ended = locked.ended;
        let lists = locked.lists.get_or_default();
        let failed = !lists.failed.is_empty();
        if !ended {
            lists.requests.push(requests.clone());
        }
        drop(locked);
        if failed || ended {
            requests.wake_all();
        }
    }

    /// Returns the number of requests without a response. Locks their tables under this lock.
    pub(crate) fn pending(&self) -> usize {
        let locked = self.locked.lock();
        let requests = locked
            .lists
            .get()
            .into_iter()
            .flat_map(|lists| &lists.requests);
        requests.map(|requests| requests.pending()).sum()
    }

    /// Takes the reason why a request was not sent, if it is known.
    pub(crate) fn take_failure(&self, number: RequestNumber) -> Option<SendFailure<Out>> {
        self.locked.lock().lists.get_mut()?.failed.remove(&number)
    }

    /// Returns `true` if the request was sent. Otherwise it may still be sent.
    pub(crate) fn was_sent(&self, number: RequestNumber) -> bool {
        let locked = self.locked.lock();
        let lists = locked.lists.get();
        let failed = lists.is_some_and(|lists| lists.failed.contains_key(&number));
        !failed && number <= self.sent.get()
    }

    /// Polls the send outcome of a request. Must be called only after the input has ended: see
    /// [`record_sent`](Self::record_sent).
    pub(crate) fn poll(
        &self,
        cx: &Context<'_>,
        number: RequestNumber,
    ) -> Poll<Result<(), SendFailure<Out>>> {
        let mut locked = self.locked.lock();
        let ended = locked.ended;
        let lists = locked.lists.get_or_default();
        if let Some(failure) = lists.failed.remove(&number) {
            return Poll::Ready(Err(failure));
        }
        if number <= self.sent.get() {
            return Poll::Ready(Ok(()));
        }
        if ended {
            return Poll::Ready(Err(SendFailure::Closed(None)));
        }
        let old = lists.waiting.insert(number, cx.waker().clone());
        drop(locked);
        drop(old);
        Poll::Pending
    }

    /// Records that the outcome of this request will not be polled.
    pub(crate) fn abandon(&self, number: RequestNumber) {
        let mut locked = self.locked.lock();
        let ended = locked.ended;
        let lists = locked.lists.get_or_default();
        let waker = lists.waiting.remove(&number);
        let failure = lists.failed.remove(&number);
        if failure.is_none() && !ended {
            let sent = self.sent.get();
            while lists.abandoned.first().is_some_and(|first| *first <= sent) {
                lists.abandoned.pop_first();
            }
            if number > sent {
                lists.abandoned.insert(number);
            }
        }
        drop(locked);
        drop((waker, failure)); // may hold the user's message
    }

    // Methods for the driver.

    /// Counts a poll of the driver, which takes the queued messages. There is one driver, so no
    /// atomic addition is needed.
    #[inline]
    pub(crate) fn record_poll(&self) {
        self.polls.increment();
    }

    /// Records that this request was sent, and with it all earlier ones that have not failed.
    /// `awaited` must be `true` once requesters may wait for it, which is after the input has
    /// ended.
    #[inline]
    pub(crate) fn record_sent(&self, number: RequestNumber, awaited: bool) {
        if awaited {
            self.record_sent_awaited(number);
        } else {
            self.sent.set(number);
        }
    }

    #[cold]
    fn record_sent_awaited(&self, number: RequestNumber) {
        let mut locked = self.locked.lock();
        self.sent.set(number);
        let Some(lists) = locked.lists.get_mut() else {
            return;
        };
        let later = lists.waiting.split_off(&(number + 1));
        let woken = std::mem::replace(&mut lists.waiting, later);
        drop(locked);
        woken.into_values().for_each(Waker::wake);
    }

    /// Records that this request will not be sent.
    #[cold]
    pub(crate) fn fail(&self, number: RequestNumber, failure: SendFailure<Out>) {
        let mut locked = self.locked.lock();
        let lists = locked.lists.get_or_default();
        if lists.abandoned.remove(&number) {
            drop(locked);
            drop(failure); // may hold the user's message
            return;
        }
        lists.failed.insert(number, failure);
        let waiting = lists.waiting.remove(&number);
        let requests = lists.requests.clone();
        drop(locked);
        waiting.into_iter().for_each(Waker::wake);
        requests.iter().for_each(|requests| requests.wake_all());
    }

    /// Records that no further request will be sent. Later failures need not be reported.
    pub(crate) fn end(&self) {
        let mut locked = self.locked.lock();
        locked.ended = true;
        let Some(lists) = locked.lists.get_mut() else {
            return;
        };
        let waiting = std::mem::take(&mut lists.waiting);
        let requests = std::mem::take(&mut lists.requests);
        drop(locked);
        waiting.into_values().for_each(Waker::wake);
        requests.iter().for_each(|requests| requests.wake_all());
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::session::payload::Payload;

    fn refused() -> SendFailure<&'static str> {
        SendFailure::Encode(Arc::new(fmt::Error))
    }

    #[test]
    fn failed_request_before_a_sent_one_does_not_count_as_sent() {
        let outcomes = RequestOutcomes::new();
        outcomes.record_sent(1, false);
        outcomes.fail(2, refused());
        outcomes.record_sent(3, false);
        assert!(outcomes.was_sent(1) && !outcomes.was_sent(2) && outcomes.was_sent(3));
        assert!(!outcomes.was_sent(4));
        assert!(matches!(
            outcomes.take_failure(2),
            Some(SendFailure::Encode(_))
        ));
        assert!(
            outcomes.take_failure(2).is_none(),
            "a failure is taken once"
        );
    }

    #[test]
    fn requests_are_woken_for_failures_including_earlier_ones() {
        #[derive(Default)]
        struct Woken(AtomicU64);

        impl PendingRequests for Woken {
            fn wake_all(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }

            fn pending(&self) -> usize {
                2
            }
        }

        let outcomes = RequestOutcomes::new();
        let [early, late] = [(); 2].map(|()| Arc::new(Woken::default()));
        let woken = |requests: &Woken| requests.0.load(Ordering::Relaxed);
        outcomes.add(&early);
        assert_eq!((woken(&early), outcomes.pending()), (0, 2));
        outcomes.fail(1, refused());
        assert_eq!(woken(&early), 1);
        outcomes.add(&late);
        assert_eq!((woken(&late), outcomes.pending()), (1, 4));
        outcomes.end();
        assert_eq!((woken(&early), woken(&late)), (2, 2));
        assert_eq!(outcomes.pending(), 0);
    }

    #[test]
    fn waiting_request_learns_whether_it_was_sent() {
        let outcomes = RequestOutcomes::new();
        let mut tasks = [1, 2, 3].map(|_| task::spawn(()));
        for (number, task) in (1..).zip(&mut tasks) {
            assert_pending!(task.enter(|cx, _| outcomes.poll(cx, number)));
        }
        outcomes.record_sent(1, true);
        outcomes.fail(2, SendFailure::Closed(Some(Payload::Message("back"))));
        assert!(tasks[0].is_woken() && tasks[1].is_woken() && !tasks[2].is_woken());
        outcomes.end();
        assert!(tasks[2].is_woken());
        let outcomes = [0, 1, 2].map(|n| {
            let number = n as u64 + 1;
            assert_ready!(tasks[n].enter(|cx, _| outcomes.poll(cx, number)))
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
    fn panicking_destructor_of_a_request_does_not_hide_the_end_from_others() {
        #[derive(Debug)]
        struct PanicsOnDrop(bool);

        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                assert!(!self.0, "boom");
            }
        }

        let connection = crate::Connection::new(());
        let (session, driver) = crate::session::driver::pair(connection.handle().clone());
        for (number, bomb) in [(1, true), (2, false)] {
            let pushed = session.outbox().push_request(&mut Some(PanicsOnDrop(bomb)));
            assert_eq!(pushed, Some(number));
        }
        session.requests().abandon(1);
        let mut waits = task::spawn(());
        assert_pending!(waits.enter(|cx, _| session.requests().poll(cx, 2)));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(driver)));
        assert!(waits.is_woken());
        let outcome = assert_ready!(waits.enter(|cx, _| session.requests().poll(cx, 2)));
        assert!(matches!(outcome, Err(SendFailure::Closed(Some(_)))));
        assert!(ended.is_ok(), "the panic was caught");
    }

    #[test]
    fn outcomes_of_abandoned_requests_are_not_stored() {
        let outcomes = RequestOutcomes::new();
        for number in 1..=100 {
            outcomes.abandon(number);
        }
        for number in 1..=50 {
            outcomes.fail(number, refused());
        }
        outcomes.record_sent(100, false);
        outcomes.abandon(101);
        outcomes.fail(101, refused());
        outcomes.fail(102, refused());
        outcomes.abandon(102);
        let locked = outcomes.locked.lock();
        let lists = locked.lists.get().unwrap();
        assert!(lists.failed.is_empty() && lists.abandoned.is_empty());
    }
}
