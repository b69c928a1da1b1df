//! Values whose destructors may panic.

use std::{
    fmt,
    future::Future,
    mem::needs_drop,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::panic::catch_and_log;

pin_project! {
    /// A value of the application whose destructor may panic. The panic is caught and logged.
    ///
    /// Rust aborts the process when a destructor panics while another panic unwinds. Two fields
    /// with such destructors are enough because the unwinding of the first drops the second. A
    /// type that holds several values of its user should therefore keep each value in a
    /// `Contained` (design.md: Why is each value of the application dropped inside a separate
    /// catch?).
    ///
    /// It implements `Future` if `T` does. It costs one branch for each access and, where `T` has
    /// no niche, one word.
    ///
    /// ```
    /// use getty_core::hooks::Contained;
    ///
    /// struct Bad;
    /// impl Drop for Bad {
    ///     fn drop(&mut self) {
    ///         panic!("a poisoned lock");
    ///     }
    /// }
    ///
    /// drop((Contained::new(Bad), Contained::new(Bad)));
    /// ```
    #[derive(Clone, PartialEq, Eq)]
    pub struct Contained<T> {
        // `None` once `into_inner` has taken the value
        #[pin]
        value: Option<T>,
    }

    impl<T> PinnedDrop for Contained<T> {
        fn drop(this: Pin<&mut Self>) {
            let mut value = this.project().value;
            if needs_drop::<T>() && value.is_some() {
                catch_and_log("a destructor", || value.set(None));
            }
        }
    }
}

impl<T> Contained<T> {
    /// Creates a new `Contained` with this value.
    #[inline(always)]
    pub const fn new(value: T) -> Self {
        Self { value: Some(value) }
    }

    /// Returns a reference to the value.
    #[inline]
    pub const fn get_ref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!(),
        }
    }

    /// Returns a mutable reference to the value.
    #[inline]
    pub const fn get_mut(&mut self) -> &mut T {
        match &mut self.value {
            Some(value) => value,
            None => unreachable!(),
        }
    }

    /// Returns the value. A panic of its destructor is not caught any more.
    #[inline(always)]
    pub fn into_inner(mut self) -> T {
        match self.value.take() {
            Some(value) => value,
            None => unreachable!("only `into_inner` takes the value"),
        }
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.get_ref()
    }
}

impl<T> DerefMut for Contained<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.get_mut()
    }
}

impl<T> From<T> for Contained<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().value.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => unreachable!("only `into_inner` takes the value"),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Contained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        future::ready,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    struct PanicsOnDrop<'a>(&'a AtomicUsize);

    impl Drop for PanicsOnDrop<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            panic!("this message is expected");
        }
    }

    #[test]
    fn panics_of_several_destructors_are_caught_even_during_unwinding() {
        let dropped = AtomicUsize::new(0);
        let bomb = || Contained::new(PanicsOnDrop(&dropped));
        drop((bomb(), bomb()));
        let outer = catch_unwind(AssertUnwindSafe(|| {
            let _bombs = (bomb(), bomb());
            panic!("this message is expected");
        }));
        assert!(outer.is_err());
        assert_eq!(dropped.load(SeqCst), 4);
    }

    #[test]
    fn panic_of_a_value_that_was_taken_is_not_caught() {
        let dropped = AtomicUsize::new(0);
        let bomb = Contained::new(PanicsOnDrop(&dropped)).into_inner();
        assert_eq!(dropped.load(SeqCst), 0);
        let outer = catch_unwind(AssertUnwindSafe(|| drop(bomb)));
        assert!(outer.is_err());
    }

    #[tokio::test]
    async fn contained_future_is_polled_in_place() {
        assert_eq!(Contained::new(ready(7)).await, 7);
    }
}
