//! The duty to finish a connection.

use std::{fmt, sync::Arc};

use super::{CloseReason, Closed, ConnectionHandle, Panic, SharedError};

/// The duty to finish a connection, for whatever drives it: dropped or [finished](Self::finish), it runs the close
/// callbacks and resolves [`closed`](ConnectionHandle::closed).
///
/// A [`Connection`](crate::Connection) carries it until the session loop takes it over. It is to be dropped after the
/// transport and after the [`Driver`](crate::driver::Driver). Where no reason was recorded until then, it records
/// [`CloseReason::Refused`](crate::CloseReason::Refused) before [`open`](Self::open),
/// [`CloseReason::Dropped`](crate::CloseReason::Dropped) after it, and
/// [`CloseReason::Panicked`](crate::CloseReason::Panicked) in a panic; so does the driver, which is dropped first.
pub struct Lease(Option<ConnectionHandle>);

impl Lease {
    pub(super) const fn new(handle: ConnectionHandle) -> Self {
        Self(Some(handle))
    }

    /// The session is open from here on.
    pub fn open(&mut self) {
        self.0.iter().for_each(ConnectionHandle::mark_open);
    }

    /// Returns `true` once the session is [open](Self::open), also after its close. Returns `false`
    /// for a lease that was taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_some_and(ConnectionHandle::is_open)
    }

    /// Takes it out of its place, where nothing is left to do then.
    #[must_use]
    pub const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// The end: runs the close callbacks, resolves those who wait, and gives the record.
    #[must_use]
    pub fn finish(mut self) -> Closed {
        match self.0.take() {
            Some(handle) => handle.finish(),
            None => unreachable!("a lease is finished once"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take()
            && !handle.leave_to_catcher()
        {
            handle.finish();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.0).finish()
    }
}

/// Defers the end of a connection that is dropped before its session opens, until [`end_refusal`]
/// is called.
///
/// A layer that refuses a connection drops it and returns its error afterwards, which is too late
/// for the close callbacks unless they wait. A server that runs stacks must call this before it
/// calls the stack and before each poll of the future until the session is open, and `end_refusal`
/// after each of these polls.
pub fn defer_refusal(connection: &ConnectionHandle) {
    connection.defer_refusal();
}

/// Ends what [`defer_refusal`] began: if the connection was dropped meanwhile, its close callbacks
/// run now.
///
/// `error` is what the stack's future returned. It becomes the source of the close, if the reason
/// is [`Refused`](CloseReason::Refused) or [`Dropped`](CloseReason::Dropped) and has none. Where no
/// reason was recorded, it records one of these two, because the stack has given up the connection.
pub fn end_refusal(connection: &ConnectionHandle, error: Option<SharedError>) {
    connection.end_refusal(error);
}

/// The duty of one who catches panics: a lease that is dropped by a panic's unwinding leaves its own duty to it, so that
/// the connection is finished with the panic's message, which is known only once the panic is caught.
///
/// However the catcher ends, a duty that was left to it is done by then.
pub struct Catcher {
    handle: ConnectionHandle,
}

impl Catcher {
    #[doc(hidden)]
    pub fn new(handle: ConnectionHandle) -> Self {
        handle.add_catcher();
        Self { handle }
    }

    /// A panic was caught. Its message is recorded, unless the connection closes for another reason.
    #[doc(hidden)]
    pub fn caught(&self, panic: Panic) {
        let panic: SharedError = Arc::new(panic);
        self.handle
            .close_shared(CloseReason::Panicked, Arc::clone(&panic));
        if self.handle.reason() == Some(CloseReason::Panicked) {
            self.handle.note_source(panic);
        }
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        if self.handle.remove_catcher() {
            self.handle.finish();
        }
    }
}

impl fmt::Debug for Catcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catcher")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
