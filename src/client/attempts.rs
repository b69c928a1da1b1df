//! Counter of a client's failed attempts, which determines the time of the next one.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{Backoff, Pauses};

/// Replacement for a pause that a clock cannot represent: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Attempts and losses of a client.
#[derive(Debug)]
pub(super) struct Attempts {
    pauses: Pauses,
    reset_after: Duration,
    /// Number of attempts that were begun.
    begun: u64,
    /// Value of `begun` at the last loss.
    begun_at_loss: u64,
    /// Number of consecutive failures, which determines the pause.
    failures: u32,
    /// Number of consecutive failures since the last success, for the maximum number of attempts.
    failed_attempts: u32,
    not_before: Instant,
}

impl Attempts {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            pauses: Pauses::new(backoff),
            reset_after: backoff.reset_after(),
            begun: 0,
            begun_at_loss: 0,
            failures: 0,
            failed_attempts: 0,
            not_before: Instant::now(),
        }
    }

    /// Returns the earliest time of the next attempt.
    pub(super) const fn not_before(&self) -> Instant {
        self.not_before
    }

    pub(super) const fn begin(&mut self) {
        self.begun += 1;
    }

    /// Returns the number of the last attempt.
    pub(super) const fn last(&self) -> u64 {
        self.begun
    }

    /// Returns the number of consecutive failed attempts.
    pub(super) const fn failed_attempts(&self) -> u32 {
        self.failed_attempts
    }

    /// Records a failed attempt or the end of the session that it opened. Sets the time of the next
    /// attempt. `lived` is how long the session was offered.
    pub(super) fn record_loss(&mut self, attempt: u64, lived: Option<Duration>) {
        // Sessions that began before the last loss probably ended for the same cause: a server that
        // stops ends a whole pool. This counts as one failure.
        let is_new_failure = attempt > self.begun_at_loss;
        self.begun_at_loss = self.begun;
        match lived {
            // (design.md: When has an attempt succeeded?)
            Some(lived) if lived >= self.reset_after => {
                self.failed_attempts = 0;
                if is_new_failure {
                    self.failures = 0;
                }
            }
            _ if is_new_failure => {
                self.failed_attempts = self.failed_attempts.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
            }
            _ => {}
        }
        let now = Instant::now();
        // Otherwise a pause is in progress, and no attempt has begun since.
        if self.not_before <= now {
            let pause = self.pauses.after(self.failures);
            self.not_before = now.checked_add(pause).unwrap_or(now + LONGEST);
        }
    }
}
