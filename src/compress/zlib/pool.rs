//! Contexts that the sessions of a thread share. No message depends on an earlier one, so that
//! a session may use any context.
//!
//! An inflater takes 48 KiB and a compressor about 380 KiB. To create one takes longer than to
//! compress a message, so each thread keeps a few.

use std::{
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
};

use super::{Configuration, Deflater, Inflater};

/// Maximum number of compressors that a thread keeps. Sessions of a thread differ in level and
/// window only if a program uses several settings or a peer asks for a smaller window.
const MAX_DEFLATERS: usize = 2;
/// Maximum number of unused inflaters that a thread keeps.
const MAX_INFLATERS: usize = 4;

thread_local! {
    /// The most recently used is the last.
    static DEFLATERS: RefCell<Vec<Deflater>> = const { RefCell::new(Vec::new()) };
    #[expect(clippy::vec_box, reason = "a session takes the box without an allocation")]
    static INFLATERS: RefCell<Vec<Box<Inflater>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a compressor without earlier input. It is taken out for the time of the call,
/// so that a panic drops it. While a thread ends, its pool is gone.
pub(crate) fn with_deflater<R>(
    configuration: Configuration,
    f: impl FnOnce(&mut Deflater) -> R,
) -> R {
    let pooled = DEFLATERS.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let known = pool
            .iter()
            .rposition(|known| known.configuration() == configuration);
        known.map(|at| pool.remove(at))
    });
    let mut deflater = match pooled {
        Ok(Some(deflater)) => deflater,
        _ => Deflater::new(configuration),
    };
    let result = f(&mut deflater);
    deflater.reset();
    let _ = DEFLATERS.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() == MAX_DEFLATERS {
            pool.remove(0);
        }
        pool.push(deflater);
    });
    result
}

/// Inflater of raw deflate that belongs to its thread. Dropping it does not return it.
pub(crate) struct Pooled(Box<Inflater>);

impl Pooled {
    /// Takes an unused inflater of the thread, or creates one.
    pub(crate) fn take() -> Self {
        let pooled = INFLATERS.try_with(|pool| pool.borrow_mut().pop());
        let pooled = pooled.ok().flatten();
        Self(pooled.unwrap_or_else(|| Box::new(Inflater::new(false))))
    }

    /// Returns the inflater to the thread.
    pub(crate) fn put_back(mut self) {
        let _ = INFLATERS.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < MAX_INFLATERS {
                self.reset();
                pool.push(self.0);
            }
        });
    }
}

impl Deref for Pooled {
    type Target = Inflater;

    fn deref(&self) -> &Inflater {
        &self.0
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Inflater {
        &mut self.0
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::BytesMut;

    use super::*;
    use crate::compress::Level;

    fn allocated() -> usize {
        DEFLATERS.with_borrow(Vec::len)
    }

    #[test]
    fn a_panic_drops_the_compressor() {
        let configuration = Configuration::for_messages(Level::FAST, 15);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            with_deflater(configuration, |deflater| {
                deflater.write_and_flush(b"a secret of another session", &mut BytesMut::new());
                panic!("in the middle");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(allocated(), 0);
    }

    #[test]
    fn a_thread_keeps_the_compressors_that_it_used_last() {
        for bits in [15, 9, 15, 10, 15] {
            with_deflater(Configuration::for_messages(Level::FAST, bits), |deflater| {
                let mut out = BytesMut::new();
                deflater.write_and_flush(b"hello", &mut out);
                assert!(out.ends_with(&super::super::SYNC_MARKER));
            });
        }
        let kept = DEFLATERS.with_borrow(|pool| {
            let kept = pool.iter().map(Deflater::configuration);
            kept.collect::<Vec<_>>()
        });
        assert_eq!(
            kept,
            [10, 15].map(|bits| Configuration::for_messages(Level::FAST, bits))
        );
    }
}
