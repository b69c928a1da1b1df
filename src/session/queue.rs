//! A queue that most sessions never use.

use std::collections::VecDeque;

/// A `VecDeque` that takes one word until something is first put in.
#[derive(Debug)]
#[allow(
    clippy::box_collection,
    reason = "four words are saved in every session that has no use for it"
)]
pub(crate) struct Queue<T>(Option<Box<VecDeque<T>>>);

impl<T> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::option::IntoIter<VecDeque<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map(|queue| *queue).into_iter().flatten()
    }
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push_back(&mut self, value: T) {
        self.0.get_or_insert_default().push_back(value);
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }
}
