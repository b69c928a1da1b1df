//! Guards that finish a connection even if its task is aborted or panics.

use std::{fmt, sync::Arc};

use super::{CloseReason, Closed, ConnectionHandle, SharedError};
use crate::panic::Panic;

/// Finishes a connection when it is dropped or [finished](Self::finish): runs the close
/// callbacks and resolves [`closed`](ConnectionHandle::closed).
///
/// A [`Connection`](crate::Connection) carries the guard until the session loop takes it. It
/// must be dropped after the transport and after the [`Driver`](crate::driver::Driver)
/// (design.md: Why do close callbacks always run?). If no reason was recorded until then, it
/// records:
///
/// - [`CloseReason::Refused`](crate::CloseReason::Refused) before [`open`](Self::open);
/// - [`CloseReason::Dropped`](crate::CloseReason::Dropped) after it;
/// - [`CloseReason::Panicked`](crate::CloseReason::Panicked) during a panic.
///
/// The driver records the same reasons and is dropped first.
pub struct CloseGuard(Option<ConnectionHandle>);

impl CloseGuard {
    pub(super) const fn new(handle: ConnectionHandle) -> Self {
        Self(Some(handle))
    }

    /// Marks the session as open.
    pub fn open(&mut self) {
        self.0.iter().for_each(ConnectionHandle::mark_open);
    }

    /// Returns `true` once the session is [open](Self::open), also after its close. Returns
    /// `false` for a guard that was taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_some_and(ConnectionHandle::is_open)
    }

    /// Takes the guard. The value left behind does nothing when it is dropped.
    #[must_use]
    pub const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Finishes the connection and returns its record. Runs the close callbacks and wakes the
    /// tasks that wait for the close.
    #[must_use]
    pub fn finish(mut self) -> Closed {
        match self.0.take() {
            Some(handle) => handle.finish(),
            None => unreachable!("a guard is finished once"),
        }
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take()
            && !handle.defer_finish()
        {
            handle.finish();
        }
    }
}

impl fmt::Debug for CloseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloseGuard").field(&self.0).finish()
    }
}

/// Defers the end of a connection that is dropped before its session opens until
/// [`end_refusal`] is called.
///
/// A layer that refuses a connection drops it and returns its error afterwards. Without the
/// deferral, the close callbacks would run before the error is known (design.md: Why does a
/// refused connection end with the poll that refused it?). A server that runs stacks must call
/// this function before it calls the stack, and again before each poll of the future until the
/// session is open. It must call `end_refusal` after each of these polls.
pub fn defer_refusal(connection: &ConnectionHandle) {
    connection.defer_refusal();
}

/// Ends the deferral by [`defer_refusal`]. If the connection was dropped meanwhile, its close
/// callbacks run now.
///
/// `error` is the error of the stack's future. It becomes the source of the close if the
/// reason is [`Refused`](CloseReason::Refused) or [`Dropped`](CloseReason::Dropped) and has
/// none. If no reason was recorded, one of these two is recorded because the stack has given
/// up the connection.
pub fn end_refusal(connection: &ConnectionHandle, error: Option<SharedError>) {
    connection.end_refusal(error);
}

/// Finishes a connection whose [`CloseGuard`] was dropped by a panic, once the panic is
/// caught.
///
/// The panic's message is known only after the unwinding has dropped the `CloseGuard`. While a
/// `PanicGuard` exists, such a drop leaves the connection to it. The connection is finished
/// when the `PanicGuard` is dropped.
pub struct PanicGuard {
    handle: ConnectionHandle,
}

impl PanicGuard {
    #[doc(hidden)]
    pub fn new(handle: ConnectionHandle) -> Self {
        handle.add_panic_guard();
        Self { handle }
    }

    /// Records the message of a panic that was caught, unless the connection closes for another
    /// reason.
    #[doc(hidden)]
    pub fn caught(&self, panic: Panic) {
        let panic: SharedError = Arc::new(panic);
        self.handle
            .close_shared(CloseReason::Panicked, Arc::clone(&panic));
        if self.handle.reason() == Some(CloseReason::Panicked) {
            self.handle.add_source(panic);
        }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if self.handle.remove_panic_guard() {
            self.handle.finish();
        }
    }
}

impl fmt::Debug for PanicGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PanicGuard")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
