//! Pauses between the dials of a client.

use std::{
    fmt,
    hash::{BuildHasher, DefaultHasher, Hasher, RandomState},
    time::Duration,
};

use tower::util::rng::{HasherRng, Rng};

/// Exponential backoff with jitter between the dials of a client.
///
/// Pauses grow by a factor up to a maximum. Each is shortened at random. The defaults are
/// 300 ms, a factor of 2, a maximum of 30 s, and full jitter. Then the first pause is between
/// 1 ms and 300 ms. The third is at most 1.2 s. From the eighth on they are at most 30 s.
/// Scope: client.
///
/// A session that was open for [5 s](Self::with_reset_after) resets the pauses to the first
/// one. A session that closes sooner counts as a failed dial. A server that accepts and closes
/// at once is therefore dialed less and less often.
///
/// ```
/// use std::time::Duration;
/// use getty::client::Backoff;
///
/// let even = Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
///     .with_factor(3.0)
///     .with_jitter(0.0);
/// let pauses: Vec<_> = even.pauses().take(6).map(|pause| pause.as_secs()).collect();
/// assert_eq!(pauses, [1, 3, 9, 27, 60, 60]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
// (design.md: Why does `Client` not use tower's backoff?)
pub struct Backoff {
    first: Duration,
    longest: Duration,
    factor: f64,
    jitter: f64,
    reset_after: Duration,
    seed: Option<u64>,
}

/// Minimum pause: the resolution of tokio's timers. It keeps a client without a pause from
/// spinning.
const SHORTEST: Duration = Duration::from_millis(1);

impl Backoff {
    /// Creates a new backoff with pauses from `first` to `longest`. The minimum of `first` is 1 ms;
    /// the minimum of `longest` is `first`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        let first = first.max(SHORTEST);
        Self {
            first,
            longest: longest.max(first),
            factor: 2.0,
            jitter: 1.0,
            reset_after: Duration::from_secs(5),
            seed: None,
        }
    }

    /// Sets the factor by which each pause is longer than the one before. The minimum is 1; the
    /// default is 2.
    #[must_use]
    pub const fn with_factor(mut self, factor: f64) -> Self {
        // NaN means no growth.
        self.factor = if factor > 1.0 { factor } else { 1.0 };
        self
    }

    /// Sets the maximum fraction, between 0 and 1, by which a pause is shortened at random. With 1
    /// (full jitter), clients that lost their server at the same moment are spread over the whole
    /// pause. With 0 they reconnect together. The default is 1.
    #[must_use]
    pub const fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = if fraction > 0.0 {
            fraction.min(1.0)
        } else {
            0.0
        };
        self
    }

    /// Sets the time for which a session must have been open to count as a success, which resets
    /// the pauses. The default is 5 s.
    #[must_use]
    pub const fn with_reset_after(mut self, time: Duration) -> Self {
        self.reset_after = time;
        self
    }

    /// Sets the seed of the jitter, which makes it repeatable in tests. By default each client has
    /// a random seed.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Returns the pauses of a client whose dials all fail. The iterator is infinite.
    pub fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        let mut pauses = Pauses::new(*self);
        (1_u32..).map(move |failures| pauses.after(failures))
    }

    pub(super) const fn reset_after(&self) -> Duration {
        self.reset_after
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(300), Duration::from_secs(30))
    }
}

/// Pauses of one client, with its random state.
pub(super) struct Pauses {
    backoff: Backoff,
    random: HasherRng<Seed>,
}

impl Pauses {
    pub(super) fn new(backoff: Backoff) -> Self {
        let seed = backoff
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(()));
        Self {
            backoff,
            random: HasherRng::with_hasher(Seed(seed)),
        }
    }

    /// Returns the pause after a number of consecutive failures. The end of a successful session
    /// counts as one.
    pub(super) fn after(&mut self, failures: u32) -> Duration {
        let Backoff {
            first,
            longest,
            factor,
            jitter,
            ..
        } = self.backoff;
        let grown = factor.powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
        let full = (first.as_secs_f64() * grown).min(longest.as_secs_f64());
        let pause = full * (1.0 - jitter * self.random.next_f64());
        Duration::try_from_secs_f64(pause).map_or(longest, |pause| pause.clamp(SHORTEST, longest))
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.backoff, f)
    }
}

/// Hasher that is seeded with a number.
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_are_spread_over_them() {
        let backoff = Backoff::default();
        let mut tenths = [0; 10];
        for seed in 0..10_000 {
            let mut full = Duration::from_millis(300);
            for pause in backoff.with_seed(seed).pauses().take(12) {
                assert!(pause >= SHORTEST && pause <= full, "{pause:?} of {full:?}");
                full = Duration::from_secs(30).min(full * 2);
            }
            let third = backoff.with_seed(seed).pauses().nth(2).unwrap();
            tenths[(third.as_millis() * 10 / 1201) as usize] += 1;
        }
        // About a thousand each. A count of 800 is more than six standard deviations below.
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }

    #[test]
    fn jitter_is_the_same_with_the_same_seed_and_differs_without() {
        let of = |backoff: Backoff| backoff.pauses().take(8).collect::<Vec<_>>();
        let backoff = Backoff::default();
        assert_eq!(of(backoff.with_seed(7)), of(backoff.with_seed(7)));
        assert_ne!(of(backoff.with_seed(7)), of(backoff.with_seed(8)));
        assert_ne!(of(backoff), of(backoff));
    }

    #[test]
    fn half_jitter_never_takes_more_than_half() {
        let backoff = Backoff::new(Duration::from_secs(8), Duration::from_secs(8)).with_jitter(0.5);
        for pause in backoff.pauses().take(1000) {
            assert!((4..=8).contains(&pause.as_secs()), "{pause:?}");
        }
    }

    #[test]
    fn no_setting_makes_a_client_spin_or_panic() {
        let settings = [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300];
        let times = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
        for number in settings {
            for first in times {
                for longest in times {
                    let backoff = Backoff::new(first, longest)
                        .with_factor(number)
                        .with_jitter(number);
                    for pause in backoff.pauses().take(3000) {
                        assert!(pause >= SHORTEST && pause <= longest.max(first).max(SHORTEST));
                    }
                }
            }
        }
    }
}
