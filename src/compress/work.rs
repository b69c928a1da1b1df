//! Cooperative budget for work that is measured in bytes.

use std::task::{Context, Poll, ready};

use tokio::task::coop;

/// Number of bytes, inflated or deflated, that cost a unit of tokio's cooperative budget. They
/// take about as long as 32 messages.
pub(super) const BYTES_PER_UNIT: usize = 32 * 1024;
/// Maximum number of units that are owed: those of one poll.
pub(super) const MAX_UNITS: usize = 128;

/// Work of a session that was not charged to tokio's cooperative budget. The session loop
/// counts messages and knows nothing of their cost.
#[derive(Debug)]
pub(crate) struct Work {
    /// Number of bytes that were inflated or deflated since the last unit.
    bytes: usize,
}

impl Work {
    pub(crate) const fn new() -> Self {
        Self { bytes: 0 }
    }

    /// Adds work, up to the budget of one poll.
    pub(crate) fn add(&mut self, bytes: usize) {
        let bytes = self.bytes.saturating_add(bytes);
        self.bytes = bytes.min(MAX_UNITS * BYTES_PER_UNIT);
    }

    /// Returns the work since the last unit, in bytes.
    #[cfg(test)]
    pub(crate) const fn owed(&self) -> usize {
        self.bytes
    }

    /// Returns `true` if a unit is due.
    pub(crate) const fn is_due(&self) -> bool {
        self.bytes >= BYTES_PER_UNIT
    }

    /// Charges the units that are due. Returns `Pending` if the budget is used up. The task will
    /// then be woken.
    pub(crate) fn poll_charge(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_due() {
            ready!(coop::poll_proceed(cx)).made_progress();
            self.bytes -= BYTES_PER_UNIT;
        }
        Poll::Ready(())
    }
}
