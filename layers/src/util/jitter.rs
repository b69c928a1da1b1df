//! Random jitter so that periodic work of many sessions does not coincide.

use std::{
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use getty_core::ConnectionHandle;

/// Maximum deviation of a time as a fraction from 0 to 1, with an optional seed.
///
/// Each session with a heartbeat stores it, so it has the size of one `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Jitter {
    fraction: f32,
    /// 0 is no seed.
    seed: u32,
}

impl Jitter {
    pub(crate) const fn new(fraction: f64) -> Self {
        // NaN and negative numbers mean no jitter.
        let fraction = if fraction > 0.0 {
            fraction.min(1.0)
        } else {
            0.0
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded, and corrected below"
        )]
        let rounded = fraction as f32;
        Self {
            // No deviation may exceed the fraction.
            fraction: if rounded as f64 > fraction {
                rounded.next_down()
            } else {
                rounded
            },
            seed: 0,
        }
    }

    /// Returns the same jitter with another fraction.
    pub(crate) const fn with_fraction(self, fraction: f64) -> Self {
        Self {
            seed: self.seed,
            ..Self::new(fraction)
        }
    }

    /// Returns the same jitter with a seed.
    pub(crate) const fn with_seed(self, seed: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (seed ^ (seed >> 32)) as u32;
        Self {
            seed: if folded == 0 { u32::MAX } else { folded },
            ..self
        }
    }

    /// Returns `time` plus the deviation, which is the same for a session each time.
    pub(crate) fn lengthen(self, time: Duration, session: &ConnectionHandle) -> Duration {
        time.saturating_add(self.deviation(time, session))
    }

    /// Returns `time` minus the deviation, which is the same for a session each time.
    pub(crate) fn shorten(self, time: Duration, session: &ConnectionHandle) -> Duration {
        time.saturating_sub(self.deviation(time, session))
    }

    fn deviation(self, time: Duration, session: &ConnectionHandle) -> Duration {
        if self.fraction == 0.0 {
            return Duration::ZERO;
        }
        let deviation = time.as_secs_f64() * f64::from(self.fraction) * self.unit(session);
        Duration::try_from_secs_f64(deviation).unwrap_or(Duration::MAX)
    }

    /// Returns a number from 0 to 1 for a session.
    fn unit(self, session: &ConnectionHandle) -> f64 {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        let hash = if self.seed == 0 {
            // Keyed per process: sessions are numbered from 1 in each process, and a thousand
            // clients that start together must not coincide either.
            KEYS.get_or_init(RandomState::new).hash_one(session.id())
        } else {
            // The number of a session counts the sessions of the process, so it does not repeat.
            let mut hasher = DefaultHasher::new();
            (self.seed, session.local_addr(), session.peer_addr()).hash(&mut hasher);
            hasher.finish()
        };
        f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::{Address, Connection, Endpoints, TransportKind};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn session() -> ConnectionHandle {
        Connection::new(()).handle().clone()
    }

    fn session_from(port: u16) -> ConnectionHandle {
        let address = |port| Address::Ip(([192, 0, 2, 1], port).into());
        let ends = Endpoints::new(TransportKind::Tcp, address(7), address(port));
        Connection::with_endpoints((), ends).handle().clone()
    }

    #[test]
    fn times_are_distributed_evenly_within_the_maximum() {
        let jitter = Jitter::new(0.25);
        for (jitter, seeded) in [(jitter, false), (jitter.with_seed(7), true)] {
            let mut tenths = [0; 10];
            for port in 0..10_000 {
                let session = if seeded {
                    session_from(port)
                } else {
                    session()
                };
                let more = jitter.lengthen(HOUR, &session) - HOUR;
                assert!(more <= HOUR / 4);
                assert_eq!(jitter.shorten(HOUR, &session), HOUR - more);
                tenths[(more.as_millis() * 10 / (HOUR / 4).as_millis()).min(9) as usize] += 1;
            }
            // About a thousand each. Fewer than 800 is as unlikely as six standard deviations.
            assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
        }
    }

    #[test]
    fn deviation_of_a_session_is_constant() {
        let jitter = Jitter::new(1.0);
        let (first, second) = (session(), session());
        assert_eq!(jitter.lengthen(HOUR, &first), jitter.lengthen(HOUR, &first));
        assert_ne!(
            jitter.lengthen(HOUR, &first),
            jitter.lengthen(HOUR, &second)
        );
    }

    #[test]
    fn seeded_deviation_depends_on_seed_and_addresses_alone() {
        let (jitter, other) = (Jitter::new(1.0).with_seed(7), Jitter::new(1.0).with_seed(8));
        let of = |jitter: Jitter, port| jitter.lengthen(HOUR, &session_from(port));
        assert_eq!(of(jitter, 1), of(jitter, 1));
        assert_ne!(of(jitter, 1), of(jitter, 2));
        assert_ne!(of(jitter, 1), of(other, 1));
        assert_eq!(jitter.with_fraction(0.5).with_fraction(1.0), jitter);
        // A seed whose halves cancel out is a seed as well.
        let zero = Jitter::new(1.0).with_seed(0);
        assert_eq!(of(zero, 1), of(zero, 1));
        assert_ne!(zero, Jitter::new(1.0));
    }

    #[test]
    fn no_fraction_is_rounded_up() {
        for thousandths in 0..=1000 {
            let fraction = f64::from(thousandths) / 1000.0;
            let stored = f64::from(Jitter::new(fraction).fraction);
            assert!(stored <= fraction && fraction - stored < 1e-7, "{fraction}");
        }
    }

    #[test]
    fn no_jitter_changes_no_time() {
        let session = session();
        for fraction in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            let jitter = Jitter::new(fraction).with_seed(7);
            assert_eq!(jitter.lengthen(HOUR, &session), HOUR);
            assert_eq!(jitter.shorten(Duration::MAX, &session), Duration::MAX);
        }
    }

    #[test]
    fn extreme_times_and_fractions_do_not_overflow() {
        let session = session();
        for fraction in [1.0, 2.0, f64::INFINITY] {
            let jitter = Jitter::new(fraction);
            assert!(jitter.lengthen(HOUR, &session) <= 2 * HOUR);
            assert_eq!(jitter.lengthen(Duration::MAX, &session), Duration::MAX);
            assert!(jitter.shorten(Duration::MAX, &session) < Duration::MAX);
            assert_eq!(jitter.shorten(Duration::ZERO, &session), Duration::ZERO);
        }
    }
}
