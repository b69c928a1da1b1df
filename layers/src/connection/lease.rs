//! The duty to finish a connection.

use std::fmt;

use super::{Closed, ConnectionHandle};

/// The duty to finish a connection, for whatever drives it: dropped or [finished](Self::finish), it runs the close
/// callbacks and resolves [`closed`](ConnectionHandle::closed).
///
/// A [`Connection`](crate::Connection) carries it until the session loop takes it over. It is to be dropped after the
/// transport and after the [`Driver`](crate::driver::Driver). Where no reason was recorded until then, it records
/// [`CloseReason::Refused`](crate::CloseReason::Refused) before [`open`](Self::open) and
/// [`CloseReason::Dropped`](crate::CloseReason::Dropped) after it, or
/// [`CloseReason::Panicked`](crate::CloseReason::Panicked) in a panic; so does the driver, which is dropped first.
pub struct Lease {
    handle: ConnectionHandle,
    finished: bool,
}

impl Lease {
    pub(super) const fn new(handle: ConnectionHandle) -> Self {
        Self {
            handle,
            finished: false,
        }
    }

    /// The session is open from here on.
    pub fn open(&mut self) {
        self.handle.mark_open();
    }

    /// The end: runs the close callbacks, resolves those who wait, and gives the record.
    #[must_use]
    pub fn finish(mut self) -> Closed {
        self.finished = true;
        self.handle.finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.handle.finish();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
