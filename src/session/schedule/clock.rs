//! The current time, read at most once in each poll of the loop.

use getty_core::driver::{Driver, Timestamp};
use tokio::time::Instant;

/// Caches the current time. Polls that do not need the time do not read the clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Option<Instant>,
    timestamp: Option<Timestamp>,
}

impl Clock {
    /// Returns the current time.
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Returns the current time as the driver's activity timestamps need it.
    #[inline]
    pub(crate) fn timestamp<Out>(&mut self, driver: &Driver<Out>) -> Timestamp {
        if let Some(timestamp) = self.timestamp {
            return timestamp;
        }
        let now = self.now();
        *self.timestamp.insert(driver.timestamp(now))
    }
}
