//! What layers have the driver look at when a time has come.

use std::fmt;

use tokio::time::Instant;

use super::{ConnectionHandle, Contained};

type Look = dyn FnMut(&ConnectionHandle, Instant, bool) -> Option<Instant> + Send;

/// One thing to look at, and when.
pub(crate) struct Check {
    at: Instant,
    look: Contained<Box<Look>>,
}

impl Check {
    pub(crate) fn new(
        at: Instant,
        look: impl FnMut(&ConnectionHandle, Instant, bool) -> Option<Instant> + Send + 'static,
    ) -> Self {
        Self {
            at,
            look: Contained::new(Box::new(look)),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The checks of one session: a handful, so that looking at all of them to find the next is cheap, and done once each
/// time that one runs.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    checks: Vec<Check>,
    next: Option<Instant>,
}

impl Checks {
    pub(crate) fn extend(&mut self, checks: Vec<Check>) {
        self.checks.extend(checks);
        self.find_next();
    }

    /// When to [`run`](Self::run) next.
    #[inline]
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Runs what is due.
    pub(crate) fn run(&mut self, connection: &ConnectionHandle, now: Instant) {
        self.checks.retain_mut(|check| {
            if check.at > now || connection.is_closing() {
                return true;
            }
            let late = now.saturating_duration_since(check.at) > LATE;
            match (check.look)(connection, now, late) {
                // a little later at least, or a check that answers with the past would be run for ever
                Some(again) => check.at = again.max(now + TICK),
                None => return false,
            }
            true
        });
        self.find_next();
    }

    fn find_next(&mut self) {
        self.next = self.checks.iter().map(|check| check.at).min();
    }
}

/// Delay from which a check counts as late, because its thread was blocked. It exceeds the
/// resolution of tokio's timers, and is shorter than any useful timeout.
const LATE: std::time::Duration = std::time::Duration::from_millis(5);

/// The resolution of tokio's timers.
const TICK: std::time::Duration = std::time::Duration::from_millis(1);
