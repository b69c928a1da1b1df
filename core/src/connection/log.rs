//! The log line for the end of a connection that no layer logs.

use std::error::Error;

use tracing::Level;

use super::{CloseReason, Closed, ConnectionHandle};
use crate::panic::catch_and_log;

impl CloseReason {
    /// Returns `true` if the application's code, its codec or the data that the codec was given
    /// has failed.
    #[doc(hidden)]
    pub const fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Decode | Self::Encode | Self::Handler | Self::Panicked
        )
    }

    /// Returns the protocol's or the application's code for the reason.
    #[doc(hidden)]
    pub const fn code(&self) -> Option<u16> {
        match self {
            Self::Protocol { code, .. } => Some(*code),
            Self::Application(close) => Some(close.code()),
            _ => None,
        }
    }
}

/// Returns the level of the line, or `None` for an end that the application requested.
pub(super) fn end_level(closed: &Closed) -> Option<Level> {
    match &closed.reason {
        reason if reason.is_failure() => Some(Level::WARN),
        // requested: with a source, something was cut off or has failed nevertheless
        CloseReason::Local
        | CloseReason::Application(_)
        | CloseReason::Shutdown
        | CloseReason::LifetimeExpired
        | CloseReason::TakenOver
        | CloseReason::Refused
        | CloseReason::Dropped => closed.source.as_ref().map(|_| Level::DEBUG),
        _ => Some(Level::DEBUG),
    }
}

/// Logs the end of a connection: see
/// [`HandleExt::set_logs_end`](super::HandleExt::set_logs_end).
#[cold]
pub(super) fn log_end(handle: &ConnectionHandle, closed: &Closed, level: Level) {
    macro_rules! log {
        ($level:ident, $text:literal) => {
            tracing::event!(
                target: "getty::session",
                Level::$level,
                connection = %handle,
                reason = closed.reason.as_str(),
                code = closed.reason.code(),
                error = closed.error(),
                $text,
            )
        };
    }
    // the source's `Display` is code of the application
    catch_and_log("logging the end of a connection", || {
        match (level, handle.is_open()) {
            (Level::WARN, true) => log!(WARN, "a session ended"),
            (Level::WARN, false) => log!(WARN, "a connection ended before its session opened"),
            (_, true) => log!(DEBUG, "a session ended"),
            (_, false) => log!(DEBUG, "a connection ended before its session opened"),
        }
    });
}

impl Closed {
    /// Returns the source as a field of an event.
    #[doc(hidden)]
    pub fn error(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
