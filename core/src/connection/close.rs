//! A request to close a connection.

use std::{error::Error, sync::Arc, time::Duration};

use super::{CloseReason, SharedError};

/// A close: its reason, its source, its drain deadline, and whether it waits for the flush.
///
/// Passed to [`ConnectionHandle::close_with`](super::ConnectionHandle::close_with) and
/// [`Reply::and_close_with`](crate::Reply::and_close_with). A [`CloseReason`] alone converts
/// into a `Close`.
///
/// ```
/// use std::time::Duration;
///
/// use getty_core::{Close, CloseReason, Connection};
///
/// let connection = Connection::new("any transport");
/// let handle = connection.handle();
/// let close = Close::new(CloseReason::Handler)
///     .with_source("the session's user was deleted")
///     .with_deadline(Duration::from_secs(1));
/// handle.close_with(close);
/// handle.close_with(CloseReason::Shutdown); // too late: the first reason wins
/// assert_eq!(handle.reason(), Some(CloseReason::Handler));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a close has no effect unless it is passed to `close_with`"]
pub struct Close {
    pub(super) reason: CloseReason,
    pub(super) source: Option<SharedError>,
    pub(super) deadline: Option<Duration>,
    pub(super) after_flush: bool,
}

impl Close {
    /// Creates a close with this reason.
    pub fn new(reason: impl Into<CloseReason>) -> Self {
        Self {
            reason: reason.into(),
            source: None,
            deadline: None,
            after_flush: false,
        }
    }

    /// Sets the error that caused the close. The default is none.
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// Sets a drain deadline in place of the session's. The default is the session's.
    ///
    /// A close with a deadline also ends the wait of an earlier
    /// [`after_flush`](Self::after_flush), which has no deadline during the flush. Otherwise a
    /// close changes nothing about an earlier one.
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the close to wait until everything accepted for sending is flushed. The default is to
    /// cut off unsent bytes at the drain deadline.
    ///
    /// The drain deadline then starts after the flush and applies to handlers in flight only. A
    /// slow peer gets the time it needs while it takes bytes. A peer that takes none is ended by
    /// the write timeout, or never if that is disabled. Like every close, this one accepts no new
    /// message and reads no more (design.md: Why is there `Close::after_flush` beside `close`?).
    #[doc(alias = "close_after_flush")]
    pub const fn after_flush(mut self) -> Self {
        self.after_flush = true;
        self
    }

    /// Returns the reason.
    #[must_use]
    pub const fn reason(&self) -> &CloseReason {
        &self.reason
    }

    pub(super) fn with_shared_source(mut self, source: SharedError) -> Self {
        self.source = Some(source);
        self
    }
}

/// Two closes are equal if their settings are equal and they share one source.
impl PartialEq for Close {
    fn eq(&self, other: &Self) -> bool {
        let same_source = match (&self.source, &other.source) {
            (Some(source), Some(other)) => Arc::ptr_eq(source, other),
            (None, None) => true,
            _ => false,
        };
        same_source
            && self.reason == other.reason
            && self.deadline == other.deadline
            && self.after_flush == other.after_flush
    }
}

impl Eq for Close {}

impl<R: Into<CloseReason>> From<R> for Close {
    fn from(reason: R) -> Self {
        Self::new(reason)
    }
}
