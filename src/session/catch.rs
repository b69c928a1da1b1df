//! Runs destructors of the application, each inside a separate catch.
//!
//! Rust aborts the process when a destructor panics while another panic unwinds. Each value
//! must therefore be dropped alone, on every path. A panic in a destructor is logged. The next
//! destructor still runs (design.md: Why is each value of the application dropped inside a
//! separate catch?).

use getty_core::{Panic, internal::log};

/// Drops a value of the application. A panic in its destructor is logged.
pub(super) fn drop_catching_panics<T>(value: T) {
    catch_panics(|| drop(value));
}

/// Calls `drop`, which runs a destructor of the application. A panic is logged.
pub(super) fn catch_panics(drop: impl FnOnce()) {
    if let Err(panic) = Panic::catch(drop) {
        log(|| tracing::error!(%panic, "a destructor panicked at the end of a session"));
    }
}
