//! A queue between the tasks that create items and the one task that accepts them.
//!
//! The module depends on nothing but a lock and a waker so that its protocol can be
//! model-checked.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Items that wait to be accepted, in order of arrival. Any number of tasks may add items, and
/// one task accepts them.
pub(super) struct AcceptQueue<T> {
    state: Mutex<State<T>>,
    acceptor: AtomicWaker,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
}

impl<T> AcceptQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                is_closed: false,
            }),
            acceptor: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of items.
    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Adds an item and wakes the accepting task. Drops the item if the queue is closed.
    pub(super) fn push(&self, item: T) {
        let mut state = self.lock();
        // checked with the lock held so that no item is added after `close` has removed all
        if state.is_closed {
            // unlocked first because the drop of an item may run user code
            drop(state);
            return;
        }
        state.items.push_back(item);
        drop(state);
        self.acceptor.wake();
    }

    /// Removes the next item, or registers the task of `cx` to be woken by a push.
    pub(super) fn poll_pop(&self, cx: &Context<'_>) -> Poll<T> {
        if let Some(item) = self.pop_if(|_| true) {
            return Poll::Ready(item);
        }
        self.acceptor.register(cx.waker());
        // an item may have been added before the registration
        self.pop_if(|_| true).map_or(Poll::Pending, Poll::Ready)
    }

    /// Removes the next item if `condition` returns `true`.
    pub(super) fn pop_if(&self, condition: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        if condition(state.items.front()?) {
            state.items.pop_front()
        } else {
            None
        }
    }

    /// Returns a property of the next item.
    pub(super) fn peek<R>(&self, property: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().items.front().map(property)
    }

    /// Drops all items, and from now on every item that is pushed.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let items = std::mem::take(&mut state.items);
        // unlocked first because the drop of an item may run user code
        drop(state);
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

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
        assert_eq!(queue.len(), 1);
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
        assert_eq!(queue.len(), 0);
    }
}
