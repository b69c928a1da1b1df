//! A boxed value that is created when it is first needed.

/// State that few instances need: one pointer until it is first used.
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
        self.0.get_or_insert_default()
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, value: T) {
        self.0 = Some(Box::new(value));
    }

    /// Removes and returns the value. This `Lazy` is empty afterwards.
    #[inline]
    pub const fn take(&mut self) -> Option<Box<T>> {
        self.0.take()
    }

    /// Returns `true` if the value was created.
    #[inline]
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
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
        assert_eq!(*lazy.take().unwrap(), [1, 2]);
        assert!(lazy.take().is_none());
        lazy.set(vec![3]);
        assert!(lazy.is_some());
    }
}
