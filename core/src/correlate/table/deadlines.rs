//! Deadlines: from when they count, and when to look for those that have passed.

use std::time::Duration;

use tokio::time::Instant;

/// A deadline that is no shorter may count from a time that is older by as long as the session waits for its turn.
const COARSE: Duration = Duration::from_secs(1);

/// When a request began, and how many turns the session had had by then. It holds for those that begin until the next turn,
/// which all of them cause.
#[derive(Debug, Default)]
pub(crate) struct Clock(Option<(Instant, u64)>);

impl Clock {
    /// The time, for a deadline that is so far away. The clock costs as much as all else that is done for a request, so it is
    /// read once for the requests between two turns of the session. Before its first turn anything may keep the session
    /// waiting.
    #[inline]
    pub(crate) fn now(&mut self, deadline: Duration, turns: u64) -> Instant {
        match self.0 {
            Some((now, then)) if then == turns && turns > 0 && deadline >= COARSE => now,
            _ => {
                let now = Instant::now();
                self.0 = Some((now, turns));
                now
            }
        }
    }

    /// A request that has begun may cause no turn.
    pub(crate) const fn forget(&mut self) {
        self.0 = None;
    }
}

/// When to look for deadlines that have passed.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// When the latest look is to be.
    at: Option<Instant>,
    /// Which look that is: earlier ones are superseded.
    number: u32,
}

impl Looks {
    /// The look that is needed for this deadline, where the latest would be too late.
    #[inline]
    pub(crate) fn by(&mut self, deadline: Instant) -> Option<(Instant, u32)> {
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

    /// The latest look goes on at this time, if at all.
    pub(crate) const fn go_on(&mut self, at: Option<Instant>) {
        self.at = at;
    }
}
