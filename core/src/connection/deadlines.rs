//! Deadlines that layers schedule, run by the driver.

use std::fmt;

use tokio::time::Instant;

use super::{ConnectionHandle, Contained};

/// Called with the current time and the time at which the call was due, which is later if
/// [`recheck`](Deadlines::recheck) calls it.
type Callback = dyn FnMut(&ConnectionHandle, Instant, Instant) -> Option<Instant> + Send;

/// A callback and the time of its next call.
pub(crate) struct Deadline {
    at: Instant,
    callback: Contained<Box<Callback>>,
}

impl Deadline {
    pub(crate) fn new(
        at: Instant,
        callback: impl FnMut(&ConnectionHandle, Instant, Instant) -> Option<Instant> + Send + 'static,
    ) -> Self {
        Self {
            at,
            callback: Contained::new(Box::new(callback)),
        }
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The deadlines of one session.
///
/// A session has a handful, so the next one is found by a scan, once each time that one runs.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    deadlines: Vec<Deadline>,
    next: Option<Instant>,
}

impl Deadlines {
    pub(crate) fn extend(&mut self, deadlines: Vec<Deadline>) {
        self.deadlines.extend(deadlines);
        self.find_next();
    }

    /// Returns the time at which [`run`](Self::run) must be called next.
    #[inline]
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Runs the callbacks that are due.
    pub(crate) fn run(&mut self, connection: &ConnectionHandle, now: Instant) {
        self.run_until(connection, now, Some(now));
    }

    /// Runs all callbacks. One that is not a check returns its time without effect.
    #[cold]
    pub(crate) fn recheck(&mut self, connection: &ConnectionHandle, now: Instant) {
        self.run_until(connection, now, None);
    }

    /// Runs the callbacks that are due at `until`, or all.
    fn run_until(&mut self, connection: &ConnectionHandle, now: Instant, until: Option<Instant>) {
        self.deadlines.retain_mut(|deadline| {
            if until.is_some_and(|until| deadline.at > until) || connection.is_closing() {
                return true;
            }
            match (deadline.callback)(connection, now, deadline.at) {
                // later than now by at least one tick: a callback that returns a time in the past
                // must not run in an endless loop
                Some(again) => deadline.at = again.max(now + TICK),
                None => return false,
            }
            true
        });
        self.find_next();
    }

    fn find_next(&mut self) {
        self.next = self.deadlines.iter().map(|deadline| deadline.at).min();
    }
}

/// Returns `true` if a callback that was due at `at` runs late, because its thread was blocked.
pub(crate) fn is_late(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) > LATE
}

/// Delay from which a callback counts as late because its thread was blocked.
///
/// It exceeds the resolution of tokio's timers and is shorter than any useful timeout.
const LATE: std::time::Duration = std::time::Duration::from_millis(5);

/// Resolution of tokio's timers.
const TICK: std::time::Duration = std::time::Duration::from_millis(1);
