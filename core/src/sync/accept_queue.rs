//! A queue between the tasks that create items and the one task that accepts them.

use std::{
    collections::VecDeque,
    fmt,
    task::{Context, Poll, Waker},
};

use super::{Mutex, replace_waker};

/// Items that wait to be accepted, in order of arrival. Any number of tasks may add items, and
/// one task accepts them.
pub struct AcceptQueue<T>(Mutex<State<T>>);

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    /// Waker of the accepting task, from a poll that found no item until the next push.
    acceptor: Option<Waker>,
}

impl<T> AcceptQueue<T> {
    /// Creates an empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(State {
            items: VecDeque::new(),
            is_closed: false,
            acceptor: None,
        }))
    }

    /// Returns the number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().items.len()
    }

    /// Returns `true` if there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an item and wakes the accepting task. Drops the item if the queue is closed.
    pub fn push(&self, item: T) {
        let mut state = self.0.lock();
        // checked with the lock held so that no item is added after `close` has removed all
        if state.is_closed {
            // unlocked first because the drop of an item may run user code
            drop(state);
            return;
        }
        state.items.push_back(item);
        let acceptor = state.acceptor.take();
        drop(state);
        acceptor.into_iter().for_each(Waker::wake);
    }

    /// Removes the next item, or registers the task of `cx` to be woken by a push.
    pub fn poll_pop(&self, cx: &Context<'_>) -> Poll<T> {
        let mut state = self.0.lock();
        if let Some(item) = state.items.pop_front() {
            return Poll::Ready(item);
        }
        // registered with the lock held so that no push is missed
        let replaced = replace_waker(&mut state.acceptor, cx);
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Removes the next item if `condition` returns `true`.
    pub fn pop_if(&self, condition: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.0.lock();
        if condition(state.items.front()?) {
            state.items.pop_front()
        } else {
            None
        }
    }

    /// Returns a property of the next item.
    pub fn peek<R>(&self, property: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().items.front().map(property)
    }

    /// Drops all items, and from now on every item that is pushed.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let items = std::mem::take(&mut state.items);
        let acceptor = state.acceptor.take();
        // unlocked first because the drop of an item may run user code
        drop(state);
        drop((items, acceptor));
    }
}

impl<T> Default for AcceptQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for AcceptQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptQueue").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn items_are_accepted_in_order_of_arrival() {
        let queue = AcceptQueue::new();
        let cx = Context::from_waker(Waker::noop());
        assert!(queue.poll_pop(&cx).is_pending());
        for item in 1..=3 {
            queue.push(item);
        }
        assert_eq!(queue.pop_if(|item| *item > 1), None);
        assert_eq!(queue.pop_if(|item| *item == 1), Some(1));
        assert_eq!(queue.peek(|item| item * 10), Some(20));
        assert_eq!(queue.poll_pop(&cx), Poll::Ready(2));
        assert_eq!((queue.len(), queue.is_empty()), (1, false));
    }

    #[test]
    fn closed_queue_drops_its_items_and_those_pushed_later() {
        let queue = AcceptQueue::new();
        let item = Arc::new(());
        queue.push(Arc::clone(&item));
        queue.close();
        assert_eq!(Arc::strong_count(&item), 1);
        queue.push(Arc::clone(&item));
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(queue.is_empty());
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::future::poll_fn;

    use loom::{future::block_on, sync::Arc, thread};

    use super::*;

    /// Two tasks push. The accepting task sleeps unless it has accepted both items.
    #[test]
    fn push_wakes_the_accepting_task() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let queue = Arc::new(AcceptQueue::new());
            let pushers = [1, 2].map(|item| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(item))
            });
            let mut accepted = 0;
            for _ in 0..2 {
                accepted += block_on(poll_fn(|cx| queue.poll_pop(cx)));
            }
            assert_eq!(accepted, 3);
            for pusher in pushers {
                pusher.join().unwrap();
            }
        });
    }

    /// The queue is closed while a task pushes. The item is dropped, not kept.
    #[test]
    fn item_that_is_pushed_during_the_close_is_dropped() {
        loom::model(|| {
            let queue = Arc::new(AcceptQueue::new());
            let item = Arc::new(());
            let pusher = {
                let (queue, item) = (Arc::clone(&queue), Arc::clone(&item));
                thread::spawn(move || queue.push(item))
            };
            queue.close();
            pusher.join().unwrap();
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }
}
