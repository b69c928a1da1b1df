//! The log lines of getty.

use getty_test::{Log, LogEvent};

/// Returns the only line of getty besides the opening line of `TraceLayer`.
#[track_caller]
pub(crate) fn sole_end(log: &Log) -> LogEvent {
    log.only(|event| event.target.starts_with("getty") && event.message() != "connection opened")
}

/// Returns the lines of getty.
pub(crate) fn lines_of(log: &Log) -> Vec<LogEvent> {
    let mut lines = log.events();
    lines.retain(|event| event.target.starts_with("getty"));
    lines
}
