//! Synchronisation between threads, model-checked with loom.
//!
//! Every protocol between threads that needs a waker or more than one atomic is a type of this
//! module, with a model at the end of its file (design.md: Why do protocols between threads
//! live in `core/sync`?). The outbox and the table of requests have models beside their code
//! because the models need their whole state. The models run with
//!
//! ```text
//! RUSTFLAGS="--cfg getty_loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test -p getty-core --lib --release loom
//! ```
//!
//! A separate target directory keeps the flags from rebuilding everything else. The cfg is
//! `getty_loom` and not `loom` because the latter would change tokio, which is not modelled.

mod accept_queue;
mod gcra;
mod in_flight;
mod inline_poll;
mod lazy;
mod progress;
mod quota;
mod shared_waker;
mod signal;
mod waiter_queue;

pub(crate) use self::waiter_queue::replace_waker;
pub use self::{
    accept_queue::AcceptQueue,
    gcra::Gcra,
    in_flight::{InFlightLimit, Permit},
    inline_poll::{InlinePoll, SharedTask, TaskFuture},
    lazy::Lazy,
    progress::Progress,
    quota::Quota,
    shared_waker::SharedWaker,
    signal::Signal,
    waiter_queue::{WaiterId, WaiterQueue},
};

#[cfg(not(getty_loom))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(getty_loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(getty_loom))]
pub use std::sync::MutexGuard;
#[cfg(not(getty_loom))]
use std::sync::{Mutex as Imp, PoisonError};

#[cfg(getty_loom)]
use loom::sync::Mutex as Imp;
#[cfg(getty_loom)]
pub use loom::sync::MutexGuard;
#[cfg(getty_loom)]
use std::sync::PoisonError;

/// A mutex that is not poisoned by a panic: the guarded value is consistent between any two
/// statements.
#[derive(Debug, Default)]
pub struct Mutex<T>(Imp<T>);

impl<T> Mutex<T> {
    /// Creates a new mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(Imp::new(value))
    }

    /// Locks the mutex. Blocks until no other thread holds it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
