//! The places among a client's calls in flight.
//!
//! How many are free is one number, with a bit beside it that says whether anybody waits. As long as nobody does, taking a
//! place and giving it back is one atomic operation each. Those that wait stand in line; the bit is set and cleared under
//! the lock of the line, and while it is set nobody takes a place but the first in line.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// The bit.
const AWAITED: usize = 1;
/// One free place.
const ONE: usize = 2;

/// One client's view of the places that it and its clones have, with its turn in line. A clone is not in line.
#[derive(Debug)]
pub(super) struct Places {
    shared: Arc<Shared>,
    turn: Option<u64>,
}

/// One place in use; dropped, it is free.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    /// How many places are free, times `ONE`, and whether anybody waits.
    free: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Without a waker once it was woken, until it looks again.
    waiters: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Places {
    /// More cannot be counted.
    pub(super) const MOST: usize = usize::MAX / ONE;

    pub(super) fn new(most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                most,
                free: AtomicUsize::new(most * ONE),
                line: Mutex::default(),
            }),
            turn: None,
        }
    }

    /// How many places are in use.
    pub(super) fn used(&self) -> usize {
        self.shared.most - self.shared.free.load(Ordering::Relaxed) / ONE
    }

    /// Takes a place, in turn.
    #[inline]
    pub(super) fn poll_take(&mut self, cx: &Context<'_>) -> Poll<Place> {
        if self.turn.is_none() && self.shared.take(0) {
            return Poll::Ready(Place(Arc::clone(&self.shared)));
        }
        self.poll_in_line(cx)
    }

    #[cold]
    fn poll_in_line(&mut self, cx: &Context<'_>) -> Poll<Place> {
        let shared = &*self.shared;
        let mut line = shared.line();
        let place = self.turn.and_then(|turn| line.place(turn));
        // from here on whoever gives a place back looks at the line
        shared.free.fetch_or(AWAITED, Ordering::AcqRel);
        if place.unwrap_or(line.waiters.len()) == 0 && shared.take(AWAITED) {
            let (old, next) = shared.remove(line, place);
            self.turn = None;
            next.into_iter().for_each(Waker::wake);
            drop(old);
            return Poll::Ready(Place(Arc::clone(&self.shared)));
        }
        let waker = Some(cx.waker().clone());
        let old = match place {
            Some(place) => std::mem::replace(&mut line.waiters[place].1, waker),
            None => {
                let turn = line.next;
                line.next += 1;
                line.waiters.push_back((turn, waker));
                self.turn = Some(turn);
                None
            }
        };
        drop(line);
        drop(old);
        Poll::Pending
    }

    /// Leaves the line; whoever is next learns it.
    #[inline]
    pub(super) fn leave(&mut self) {
        if let Some(turn) = self.turn.take() {
            let line = self.shared.line();
            let place = line.place(turn);
            let (old, next) = self.shared.remove(line, place);
            next.into_iter().for_each(Waker::wake);
            drop(old);
        }
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            turn: None,
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        // consistent between any two statements
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, if one is free and the bit is `awaited`.
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

    /// Takes a waiter out of the line: its waker, and that of the one whose turn it is if there is a place for it.
    fn remove(
        &self,
        mut line: MutexGuard<'_, Line>,
        place: Option<usize>,
    ) -> (Option<Waker>, Option<Waker>) {
        let gone = place.and_then(|place| line.waiters.remove(place));
        let mut next = None;
        match line.waiters.front_mut() {
            None => {
                self.free.fetch_and(!AWAITED, Ordering::AcqRel);
            }
            Some((_, waker)) if self.free.load(Ordering::Acquire) >= ONE => next = waker.take(),
            Some(_) => {}
        }
        (gone.and_then(|(_, waker)| waker), next)
    }

    #[cold]
    fn wake_first(&self) {
        let mut line = self.line();
        let first = line.waiters.front_mut();
        let waker = first.and_then(|(_, waker)| waker.take());
        drop(line);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Line {
    fn place(&self, turn: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&turn, |(id, _)| *id).ok()
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        if self.0.free.fetch_add(ONE, Ordering::AcqRel) & AWAITED != 0 {
            self.0.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn take(client: &mut task::Spawn<Places>) -> Poll<Place> {
        client.enter(|cx, mut places| places.as_mut().get_mut().poll_take(cx))
    }

    fn clients<const N: usize>(most: usize) -> [task::Spawn<Places>; N] {
        let places = Places::new(most);
        [(); N].map(|()| task::spawn(places.clone()))
    }

    #[test]
    fn places_go_to_those_in_line_in_their_order() {
        let [mut first, mut second, mut third] = clients(1);
        let place = assert_ready!(take(&mut first));
        assert_pending!(take(&mut second));
        assert_pending!(take(&mut third));
        drop(place);
        assert!(second.is_woken() && !third.is_woken());
        assert_pending!(take(&mut first), "it overtakes nobody");
        assert_pending!(take(&mut third), "nor does who is later in line");
        let place = assert_ready!(take(&mut second));
        drop(place);
        assert!(third.is_woken());
        let place = assert_ready!(take(&mut third));
        assert_eq!(third.used(), 1);
        drop(place);
        assert!(first.is_woken());
        drop(assert_ready!(take(&mut first)));
        // nobody waits any more
        drop(assert_ready!(take(&mut second)));
        assert_eq!(third.used(), 0);
    }

    #[test]
    fn who_leaves_the_line_passes_its_turn_on() {
        let [mut first, mut second, mut third] = clients(1);
        let place = assert_ready!(take(&mut first));
        assert_pending!(take(&mut second));
        assert_pending!(take(&mut third));
        drop(place);
        assert!(second.is_woken() && !third.is_woken());
        drop(second);
        assert!(third.is_woken());
        drop(assert_ready!(take(&mut third)));
    }

    #[test]
    fn two_places_given_back_wake_two() {
        let [mut first, mut second, mut third, mut fourth] = clients(2);
        let places = [&mut first, &mut second].map(|client| assert_ready!(take(client)));
        assert_pending!(take(&mut third));
        assert_pending!(take(&mut fourth));
        drop(places);
        assert!(third.is_woken());
        let _place = assert_ready!(take(&mut third));
        assert!(fourth.is_woken(), "the first in line tells the next");
        let _place = assert_ready!(take(&mut fourth));
    }

    #[test]
    fn no_place_is_lost_between_threads() {
        let places = Places::new(2);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut places = places.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    runtime.unwrap().block_on(async {
                        for _ in 0..2000 {
                            let taken = std::future::poll_fn(|cx| places.poll_take(cx));
                            let place = taken.await;
                            tokio::task::yield_now().await;
                            drop(place);
                        }
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(places.used(), 0);
        assert_eq!(places.shared.free.load(Ordering::Relaxed), 2 * ONE);
    }
}
