//! The synchronisation that our own code is built on, swapped for loom's in its models.
//!
//! The models stand at the end of the modules that they check, `signal`, `outbox` and `correlate::table`. They run with
//!
//! ```text
//! RUSTFLAGS="--cfg getty_loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test -p getty-core --lib --release loom
//! ```
//!
//! The target directory of its own keeps the flags from rebuilding all else; the cfg of our own, rather than `loom`,
//! keeps tokio as it is, which is not modelled.

mod signal;

pub use self::signal::Signal;

#[cfg(not(getty_loom))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(getty_loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(getty_loom))]
pub(crate) use std::sync::MutexGuard;
#[cfg(not(getty_loom))]
use std::sync::{Mutex as Imp, PoisonError};

#[cfg(getty_loom)]
use loom::sync::Mutex as Imp;
#[cfg(getty_loom)]
pub(crate) use loom::sync::MutexGuard;
#[cfg(getty_loom)]
use std::sync::PoisonError;

/// A mutex that a panic elsewhere does not poison: what it guards is consistent between any two statements.
#[derive(Debug, Default)]
pub struct Mutex<T>(Imp<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Imp::new(value))
    }

    #[doc(hidden)]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
