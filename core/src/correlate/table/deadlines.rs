//! Start times of deadlines and the schedule of their scans.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum deadline that may count from the start of an earlier request, which is older by at
/// most the time that the session waits for its next poll.
const COARSE: Duration = Duration::from_secs(1);

/// Start time of a request and the session's number of polls at that time. Requests share it
/// until the next poll, which each of them causes.
#[derive(Debug, Default)]
pub(crate) struct StartClock(Option<(Instant, u64)>);

impl StartClock {
    /// Returns the start time for this deadline.
    ///
    /// Reading the clock costs as much as all other work for a request. So it is read once for the
    /// requests between two polls of the session. Before its first poll the session may be delayed
    /// for any time, so the start is not shared then.
    #[inline]
    pub(crate) fn now(&mut self, deadline: Duration, polls: u64) -> Instant {
        match self.0 {
            Some((now, then)) if then == polls && polls > 0 && deadline >= COARSE => now,
            _ => {
                let now = Instant::now();
                self.0 = Some((now, polls));
                now
            }
        }
    }

    /// Forgets the start time because a request has started that may cause no poll.
    pub(crate) const fn reset(&mut self) {
        self.0 = None;
    }
}

/// Schedule of scans for missed deadlines.
#[derive(Debug, Default)]
pub(crate) struct Scans {
    /// Time of the latest scan, or none.
    at: Option<Instant>,
    /// Number of the latest scan. Earlier ones are superseded.
    number: u32,
}

impl Scans {
    /// Returns the scan to schedule for this deadline unless the latest scan is early enough.
    #[inline]
    pub(crate) fn request_by(&mut self, deadline: Instant) -> Option<(Instant, u32)> {
        if self.at.is_some_and(|at| at <= deadline) {
            return None;
        }
        self.at = Some(deadline);
        self.number = self.number.wrapping_add(1);
        Some((deadline, self.number))
    }

    pub(crate) const fn is_latest(&self, number: u32) -> bool {
        self.number == number
    }

    /// Sets the time of the latest scan's next run if there is one.
    pub(crate) const fn set_next(&mut self, at: Option<Instant>) {
        self.at = at;
    }
}
