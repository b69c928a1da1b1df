//! How many attempts have failed, and when the next one may be made.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{Backoff, Pauses};

/// What a pause that no clock can count comes to: a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Counts a client's attempts and losses.
#[derive(Debug)]
pub(super) struct Attempts {
    pauses: Pauses,
    settled_after: Duration,
    /// How many were begun.
    begun: u64,
    /// How many had been, at the time of the last loss.
    begun_at_loss: u64,
    /// How many in a row have failed, for the pauses.
    failures: u32,
    /// How many in a row have failed since a session that had settled was lost, for the bound on attempts.
    in_vain: u32,
    not_before: Instant,
}

impl Attempts {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            pauses: Pauses::new(backoff),
            settled_after: backoff.settled_after(),
            begun: 0,
            begun_at_loss: 0,
            failures: 0,
            in_vain: 0,
            not_before: Instant::now(),
        }
    }

    /// When the next one may begin.
    pub(super) const fn not_before(&self) -> Instant {
        self.not_before
    }

    pub(super) const fn begin(&mut self) {
        self.begun += 1;
    }

    /// The number of the one that was begun last.
    pub(super) const fn last(&self) -> u64 {
        self.begun
    }

    /// How many in a row have failed.
    pub(super) const fn in_vain(&self) -> u32 {
        self.in_vain
    }

    /// Counts a failed attempt, or the end of the session that it had opened and that had lived so long, and sets the time
    /// of the next one.
    pub(super) fn note_loss(&mut self, attempt: u64, lived: Option<Duration>) {
        // of what had begun before the last loss the same cause is the likely one: a server that goes takes a whole pool
        // with it, and that is one failure
        let is_news = attempt > self.begun_at_loss;
        self.begun_at_loss = self.begun;
        match lived {
            Some(lived) if lived >= self.settled_after => {
                self.in_vain = 0;
                if is_news {
                    self.failures = 0;
                }
            }
            _ if is_news => {
                self.in_vain = self.in_vain.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
            }
            _ => {}
        }
        let now = Instant::now();
        // otherwise the pause is under way: nothing that began since then has come to its end
        if self.not_before <= now {
            let pause = self.pauses.after(self.failures);
            self.not_before = now.checked_add(pause).unwrap_or(now + FOR_EVER);
        }
    }
}
