//! What spreads over time that which would otherwise happen to many sessions at once.

use std::{hash::BuildHasher, hash::RandomState, sync::OnceLock, time::Duration};

/// Up to which part of a time it may be off: a number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Jitter(f64);

impl Jitter {
    pub(crate) const fn new(fraction: f64) -> Self {
        // what is no number is no jitter
        Self(if fraction > 0.0 {
            fraction.min(1.0)
        } else {
            0.0
        })
    }

    /// `time` and up to so much more, the same for a session each time.
    pub(crate) fn lengthen(self, time: Duration, id: u64) -> Duration {
        time.saturating_add(self.part(time, id))
    }

    /// `time` less up to so much, the same for a session each time.
    pub(crate) fn shorten(self, time: Duration, id: u64) -> Duration {
        time.saturating_sub(self.part(time, id))
    }

    fn part(self, time: Duration, id: u64) -> Duration {
        if self.0 == 0.0 {
            return Duration::ZERO;
        }
        let part = time.as_secs_f64() * self.0 * unit(id);
        Duration::try_from_secs_f64(part).unwrap_or(Duration::MAX)
    }
}

/// A number from 0 to 1 for a session. It differs between processes, of which each has a session number 1: a thousand
/// clients that start together must not be in step either.
fn unit(id: u64) -> f64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    let hash = KEYS.get_or_init(RandomState::new).hash_one(id);
    f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn times_are_spread_evenly_within_the_bound() {
        let jitter = Jitter::new(0.25);
        let mut tenths = [0; 10];
        for id in 0..10_000 {
            let more = jitter.lengthen(HOUR, id) - HOUR;
            assert!(more <= HOUR / 4);
            assert_eq!(jitter.shorten(HOUR, id), HOUR - more);
            tenths[(more.as_millis() * 10 / (HOUR / 4).as_millis()).min(9) as usize] += 1;
        }
        // a thousand each, give or take: fewer than 800 is as unlikely as six standard deviations
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }

    #[test]
    fn a_session_is_always_off_by_the_same() {
        let jitter = Jitter::new(1.0);
        assert_eq!(jitter.lengthen(HOUR, 7), jitter.lengthen(HOUR, 7));
        assert_ne!(jitter.lengthen(HOUR, 7), jitter.lengthen(HOUR, 8));
    }

    #[test]
    fn without_jitter_nothing_is_off() {
        for fraction in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(Jitter::new(fraction).lengthen(HOUR, 7), HOUR);
            assert_eq!(
                Jitter::new(fraction).shorten(Duration::MAX, 7),
                Duration::MAX
            );
        }
    }

    #[test]
    fn no_time_and_no_fraction_is_too_large() {
        for fraction in [1.0, 2.0, f64::INFINITY] {
            let jitter = Jitter::new(fraction);
            assert!(jitter.lengthen(HOUR, 7) <= 2 * HOUR);
            assert_eq!(jitter.lengthen(Duration::MAX, 7), Duration::MAX);
            assert!(jitter.shorten(Duration::MAX, 7) < Duration::MAX);
            assert_eq!(jitter.shorten(Duration::ZERO, 7), Duration::ZERO);
        }
    }
}
