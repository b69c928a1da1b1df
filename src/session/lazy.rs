//! Values that are allocated when they are first needed.
//!
//! Most sessions never use their timer, their read-ahead or their queue of replies. Behind a
//! pointer each of these takes one word (design.md: What may an idle session cost?).

use std::collections::VecDeque;

/// A value that takes one word until it is first needed.
#[derive(Debug)]
pub(crate) struct Lazy<T>(Option<Box<T>>);

impl<T> Lazy<T> {
    /// Creates a value that is not allocated.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Returns the value, or `None` if it was never needed.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Returns the value, or `None` if it was never needed.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Returns `true` if the value was never needed.
    #[inline]
    pub(crate) const fn is_unused(&self) -> bool {
        self.0.is_none()
    }

    /// Drops the value. The next use allocates a new one.
    pub(crate) fn reset(&mut self) {
        self.0 = None;
    }

    /// Takes the value out.
    #[inline]
    pub(crate) const fn take(&mut self) -> Self {
        Self(self.0.take())
    }
}

impl<T: Default> Lazy<T> {
    /// Returns the value, which is allocated if this is its first use.
    #[inline]
    pub(crate) fn get_or_default(&mut self) -> &mut T {
        self.0.get_or_insert_with(allocate)
    }
}

// Must be a separate function: messages that do not need the value would pay for this code.
#[cold]
#[inline(never)]
fn allocate<T: Default>() -> Box<T> {
    Box::default()
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lazy<VecDeque<T>> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.get().map_or(0, VecDeque::len)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.get_mut()?.pop_front()
    }
}

impl<T> IntoIterator for Lazy<VecDeque<T>> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::option::IntoIter<VecDeque<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map(|queue| *queue).into_iter().flatten()
    }
}
