//! A counter with one writer that publishes what the writer did before.

use crate::sync::{AtomicU64, Ordering};

/// A number that only grows. It has one writer and any number of readers.
///
/// A reader that sees a value also sees everything that the writer did before it set the
/// value.
#[derive(Debug)]
pub struct Progress(AtomicU64);

impl Progress {
    #[doc(hidden)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Returns the current value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Sets the value. Must be called by the one writer.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds 1 to the value. Must be called by the one writer, so that no exchange is needed.
    #[inline]
    pub fn increment(&self) {
        let value = self.0.load(Ordering::Relaxed);
        self.set(value + 1);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use loom::{sync::Arc, thread};

    use super::*;

    #[test]
    fn reader_that_sees_a_value_sees_what_was_written_before_it() {
        loom::model(|| {
            let shared = Arc::new((Progress::new(), AtomicU64::new(0)));
            let writer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    for step in 1..=2 {
                        shared.1.store(step, Ordering::Relaxed);
                        shared.0.increment();
                    }
                })
            };
            let seen = shared.0.get();
            assert!(shared.1.load(Ordering::Relaxed) >= seen);
            writer.join().unwrap();
            assert_eq!(shared.0.get(), 2);
        });
    }
}
