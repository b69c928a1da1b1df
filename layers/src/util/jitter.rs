//! Random jitter so that periodic work of many sessions does not coincide.

use std::{
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

/// Maximum deviation of a time as a fraction from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Jitter(f64);

impl Jitter {
    pub(crate) const fn new(fraction: f64) -> Self {
        // NaN and negative numbers mean no jitter.
        Self(if fraction > 0.0 {
            fraction.min(1.0)
        } else {
            0.0
        })
    }

    /// Returns `time` plus the deviation, which is the same for a session each time.
    pub(crate) fn lengthen(self, time: Duration, id: u64) -> Duration {
        time.saturating_add(self.deviation(time, id))
    }

    /// Returns `time` minus the deviation, which is the same for a session each time.
    pub(crate) fn shorten(self, time: Duration, id: u64) -> Duration {
        time.saturating_sub(self.deviation(time, id))
    }

    fn deviation(self, time: Duration, id: u64) -> Duration {
        if self.0 == 0.0 {
            return Duration::ZERO;
        }
        let deviation = time.as_secs_f64() * self.0 * unit(id);
        Duration::try_from_secs_f64(deviation).unwrap_or(Duration::MAX)
    }
}

/// Returns a number from 0 to 1 for a session. It is keyed per process: sessions are numbered
/// from 1 in each process, and a thousand clients that start together must not coincide either.
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
    fn times_are_distributed_evenly_within_the_maximum() {
        let jitter = Jitter::new(0.25);
        let mut tenths = [0; 10];
        for id in 0..10_000 {
            let more = jitter.lengthen(HOUR, id) - HOUR;
            assert!(more <= HOUR / 4);
            assert_eq!(jitter.shorten(HOUR, id), HOUR - more);
            tenths[(more.as_millis() * 10 / (HOUR / 4).as_millis()).min(9) as usize] += 1;
        }
        // About a thousand each. Fewer than 800 is as unlikely as six standard deviations.
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }

    #[test]
    fn deviation_of_a_session_is_constant() {
        let jitter = Jitter::new(1.0);
        assert_eq!(jitter.lengthen(HOUR, 7), jitter.lengthen(HOUR, 7));
        assert_ne!(jitter.lengthen(HOUR, 7), jitter.lengthen(HOUR, 8));
    }

    #[test]
    fn no_jitter_changes_no_time() {
        for fraction in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(Jitter::new(fraction).lengthen(HOUR, 7), HOUR);
            assert_eq!(
                Jitter::new(fraction).shorten(Duration::MAX, 7),
                Duration::MAX
            );
        }
    }

    #[test]
    fn extreme_times_and_fractions_do_not_overflow() {
        for fraction in [1.0, 2.0, f64::INFINITY] {
            let jitter = Jitter::new(fraction);
            assert!(jitter.lengthen(HOUR, 7) <= 2 * HOUR);
            assert_eq!(jitter.lengthen(Duration::MAX, 7), Duration::MAX);
            assert!(jitter.shorten(Duration::MAX, 7) < Duration::MAX);
            assert_eq!(jitter.shorten(Duration::ZERO, 7), Duration::ZERO);
        }
    }
}
