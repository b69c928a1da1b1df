//! Panics of the application's code: caught, and kept as errors.

use std::{
    any::Any,
    error::Error,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Message of a panic that was caught. It is the source of a close after a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic(String);

impl Panic {
    /// Creates a `Panic` with the message in the payload that `catch_unwind` returned.
    #[must_use]
    pub fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "a panic without a message".to_owned()))
    }

    /// Runs `code` and catches its panic.
    ///
    /// The payload of the panic is dropped here. If its destructor panics, that panic is caught as
    /// well. The caller must restore the invariants that `code` may have left broken.
    ///
    /// # Errors
    ///
    /// Returns the panic.
    #[inline]
    pub fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Self> {
        catch_unwind(AssertUnwindSafe(code)).map_err(Self::caught)
    }

    #[cold]
    fn caught(payload: Box<dyn Any + Send>) -> Self {
        let panic = Self::from_payload(&*payload);
        // the payload belongs to the application, and its destructor may panic as well
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(again);
        }
        panic
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Panic {}

/// Runs `code` of the application. A panic is caught and logged: `what` names the code in the
/// log.
pub fn catch_and_log(what: &str, code: impl FnOnce()) {
    if let Err(panic) = catch(code) {
        log(|| tracing::error!(%panic, "{what} panicked"));
    }
}

/// Emits an event where a panic would end more than one connection, or would skip what follows.
///
/// The subscriber is code of the application. One that writes to a full disk may panic. The
/// panic is not logged, because the log is what fails. The panic hook has reported it.
pub fn log(event: impl FnOnce()) {
    let _ = catch(event);
}

/// Runs `code` of the application and catches its panic.
pub fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    Panic::catch(code)
}
