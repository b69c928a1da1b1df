//! A number of operations in a period, with a burst.

use std::time::Duration;

/// Maximum rate of operations, such as handshakes.
///
/// Operations are allowed at even intervals: 500 a second are one every 2 ms. After a pause, up
/// to a [burst](Self::with_burst) of operations may follow each other at once. Any span of time
/// allows a burst and one more operation for each interval at most.
///
/// ```
/// use getty_core::Rate;
///
/// const HANDSHAKES: Rate = Rate::per_second(500).with_burst(200);
/// assert_eq!(HANDSHAKES.interval().as_millis(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a rate does nothing by itself"]
pub struct Rate {
    count: u32,
    period: Duration,
    burst: u32,
}

impl Rate {
    /// Creates a new rate of `count` operations every `period`. The burst is `count` as well.
    ///
    /// The smallest interval is 1 ns.
    ///
    /// # Panics
    ///
    /// Panics if `count` or `period` is zero. In a constant this does not compile.
    pub const fn new(count: u32, period: Duration) -> Self {
        assert!(count > 0, "a rate must allow operations");
        assert!(!period.is_zero(), "the period of a rate must not be zero");
        Self {
            count,
            period,
            burst: count,
        }
    }

    /// Creates a new rate of `count` operations a second. The burst is `count` as well.
    ///
    /// # Panics
    ///
    /// Panics if `count` is zero. In a constant this does not compile.
    pub const fn per_second(count: u32) -> Self {
        Self::new(count, Duration::from_secs(1))
    }

    /// Creates a new rate of `count` operations a minute. The burst is `count` as well.
    ///
    /// # Panics
    ///
    /// Panics if `count` is zero. In a constant this does not compile.
    pub const fn per_minute(count: u32) -> Self {
        Self::new(count, Duration::from_secs(60))
    }

    /// Sets the number of operations that may follow each other at once after a pause, at least
    /// 1. The default is the number of a period.
    pub const fn with_burst(mut self, operations: u32) -> Self {
        self.burst = if operations == 0 { 1 } else { operations };
        self
    }

    /// Returns the interval between two operations at the full rate.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.nanos(1))
    }

    /// Returns the time that `units` operations take at the full rate, in nanoseconds.
    pub(crate) fn nanos(&self, units: u32) -> u64 {
        let nanos = u128::from(units) * self.period.as_nanos();
        // rounded up so that the rate is never exceeded
        u64::try_from(nanos.div_ceil(u128::from(self.count))).unwrap_or(u64::MAX)
    }

    /// Returns the time that a burst takes at the full rate, in nanoseconds.
    pub(crate) fn burst_nanos(&self) -> u64 {
        self.nanos(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_rounded_up() {
        assert_eq!(Rate::per_second(3).nanos(1), 333_333_334);
        assert_eq!(Rate::per_second(3).nanos(3), 1_000_000_000);
        assert_eq!(Rate::per_second(u32::MAX).nanos(1), 1);
        assert_eq!(Rate::new(1, Duration::MAX).burst_nanos(), u64::MAX);
        assert_eq!(
            Rate::per_minute(60).with_burst(0).burst_nanos(),
            1_000_000_000
        );
    }
}
