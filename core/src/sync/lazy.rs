//! Values that are allocated when they are first needed.
//!
//! Most sessions never use their timer, their read-ahead or their queue of replies. Behind a
//! pointer each of these takes one word (design.md: What may an idle session cost?).

use std::collections::VecDeque;

/// A value that takes one word until it is first needed.
#[derive(Clone, Debug)]
pub struct Lazy<T>(Option<Box<T>>);

impl<T> Lazy<T> {
    /// Creates an empty `Lazy`, without an allocation.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Returns a reference to the value, or `None` if it was not created.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Returns a mutable reference to the value, or `None` if it was not created.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Returns a mutable reference to the value. Creates the value if there is none.
    #[inline]
    pub fn get_or_default(&mut self) -> &mut T
    where
        T: Default,
    {
        self.0.get_or_insert_with(allocate)
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, value: T) {
        self.0 = Some(Box::new(value));
    }

    /// Takes the value out. The next use allocates a new one.
    #[inline]
    #[must_use]
    pub const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Drops the value. The next use allocates a new one.
    pub fn reset(&mut self) {
        self.0 = None;
    }

    /// Returns `true` if the value was created.
    #[inline]
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

// a separate function: the messages that do not need the value would pay for this code
#[cold]
#[inline(never)]
fn allocate<T: Default>() -> Box<T> {
    Box::default()
}

impl<T> Lazy<VecDeque<T>> {
    /// Returns the number of elements.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.get().map_or(0, VecDeque::len)
    }

    /// Returns `true` if there is no element.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes and returns the first element.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
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

impl<T> Default for Lazy<T> {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    #[test]
    fn lazy_value_takes_one_word_and_is_created_by_the_first_access() {
        assert_eq!(size_of::<Lazy<[u64; 100]>>(), size_of::<usize>());
        let mut lazy = Lazy::<Vec<u8>>::new();
        assert!(lazy.get().is_none() && lazy.get_mut().is_none() && !lazy.is_some());
        lazy.get_or_default().push(1);
        lazy.get_or_default().push(2);
        assert_eq!(lazy.get().unwrap(), &[1, 2]);
        assert_eq!(*lazy.take().get().unwrap(), [1, 2]);
        assert!(!lazy.take().is_some());
        lazy.set(vec![3]);
        assert!(lazy.is_some());
        lazy.reset();
        assert!(!lazy.is_some());
    }

    #[test]
    fn lazy_queue_is_empty_until_it_is_used() {
        let mut queue = Lazy::<VecDeque<u8>>::new();
        assert!(queue.is_empty() && queue.pop_front().is_none() && !queue.is_some());
        queue.get_or_default().extend([1, 2, 3]);
        assert_eq!((queue.pop_front(), queue.len()), (Some(1), 2));
        assert!(queue.into_iter().eq([2, 3]));
    }
}
