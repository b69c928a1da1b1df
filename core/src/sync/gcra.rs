//! A rate that any number of threads share as one atomic number.
//!
//! This is the generic cell rate algorithm. The number is the time at which all operations so
//! far would end if each took the [interval](Rate::interval) of the rate. An operation is
//! allowed while that time is ahead of the clock by less than a burst.

use std::time::Duration;

use tokio::time::Instant;

use super::{AtomicU64, Ordering};
use crate::Rate;

/// State of a [`Rate`].
#[derive(Debug)]
pub struct Gcra {
    rate: Rate,
    start: Instant,
    /// End of all operations so far in nanoseconds since `start`. No other memory is ordered.
    end: AtomicU64,
}

impl Gcra {
    /// Creates the state of a rate that was not used before `now`.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            start: now,
            end: AtomicU64::new(0),
        }
    }

    /// Takes `units` operations if the rate allows them now. Otherwise it takes none and returns
    /// `false`.
    pub fn try_take(&self, units: u32, now: Instant) -> bool {
        self.reserve(units, now, Duration::ZERO).is_some()
    }

    /// Takes `units` operations and returns the time until they are allowed. Takes none and
    /// returns `None` if the time exceeds `max_wait`.
    ///
    /// Reservations are allowed in the order of the calls. A reservation cannot be returned.
    pub fn reserve(&self, units: u32, now: Instant, max_wait: Duration) -> Option<Duration> {
        let now = nanos(now.saturating_duration_since(self.start));
        let units = self.rate.nanos(units);
        let allowed = now.saturating_add(self.rate.burst_nanos());
        let max_wait = nanos(max_wait);
        let end = |end: u64| end.max(now).saturating_add(units);
        let wait = |end: u64| end.saturating_sub(allowed);
        let reserved = self
            .end
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(end(before)).filter(|end| wait(*end) <= max_wait)
            });
        reserved
            .ok()
            .map(|before| Duration::from_nanos(wait(end(before))))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn burst_is_allowed_at_once_and_then_one_an_interval() {
        let now = Instant::now();
        let gcra = Gcra::new(Rate::per_second(4).with_burst(3), now);
        let taken = |now| (0..10).filter(|_| gcra.try_take(1, now)).count();
        assert_eq!(taken(now), 3);
        assert_eq!(taken(now + SECOND / 4 - Duration::from_nanos(1)), 0);
        assert_eq!(taken(now + SECOND / 4), 1);
        assert_eq!(taken(now + SECOND), 3);
        // A long pause does not add up.
        assert_eq!(taken(now + 100 * SECOND), 3);
    }

    #[test]
    fn reservations_are_allowed_in_order_and_within_the_maximum() {
        let now = Instant::now();
        let gcra = Gcra::new(Rate::per_second(1).with_burst(2), now);
        let waits = [0, 0, 1, 2].map(|wait| Some(wait * SECOND));
        let reserve = || gcra.reserve(1, now, 2 * SECOND);
        assert_eq!([(); 4].map(|()| reserve()), waits);
        // A refused reservation takes nothing.
        assert_eq!([(); 4].map(|()| reserve()), [None; 4]);
        let later = now + SECOND;
        assert_eq!(gcra.reserve(1, later, 2 * SECOND), Some(2 * SECOND));
        assert_eq!(gcra.reserve(1, later, 2 * SECOND), None);
    }

    #[test]
    fn units_beyond_the_burst_wait_and_pass() {
        let now = Instant::now();
        let gcra = Gcra::new(Rate::per_second(1).with_burst(2), now);
        assert!(!gcra.try_take(5, now));
        assert_eq!(gcra.reserve(5, now, Duration::MAX), Some(3 * SECOND));
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        let now = Instant::now();
        let gcra = Gcra::new(Rate::new(1, Duration::MAX).with_burst(u32::MAX), now);
        assert!(gcra.try_take(u32::MAX, now));
        assert!(gcra.try_take(u32::MAX, now + SECOND));
        // A clock that another thread read earlier.
        assert!(gcra.try_take(1, now - SECOND));
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Three threads compete for a burst of two. Two of the three must take it.
    #[test]
    fn threads_never_exceed_the_burst() {
        loom::model(|| {
            let now = Instant::now();
            let gcra = Arc::new(Gcra::new(Rate::per_second(1).with_burst(2), now));
            let threads = [(); 2].map(|()| {
                let gcra = Arc::clone(&gcra);
                thread::spawn(move || gcra.try_take(1, now))
            });
            let own = gcra.try_take(1, now);
            let others = threads.map(|thread| thread.join().unwrap());
            let taken = others.into_iter().chain([own]).filter(|taken| *taken);
            assert_eq!(taken.count(), 2);
        });
    }

    #[test]
    fn reservations_of_threads_do_not_coincide() {
        loom::model(|| {
            let now = Instant::now();
            let gcra = Arc::new(Gcra::new(Rate::per_second(1).with_burst(1), now));
            let other = {
                let gcra = Arc::clone(&gcra);
                thread::spawn(move || gcra.reserve(1, now, Duration::MAX))
            };
            let own = gcra.reserve(1, now, Duration::MAX);
            let mut waits = [own, other.join().unwrap()].map(|wait| wait.unwrap().as_secs());
            waits.sort_unstable();
            assert_eq!(waits, [0, 1]);
        });
    }
}
