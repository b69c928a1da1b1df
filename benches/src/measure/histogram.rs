//! A histogram of durations. The width of a bucket is at most 1/32 of its value.

use std::time::Duration;

/// Number of sub-buckets for each power of two, as a base-2 logarithm.
const PRECISION: u32 = 5;
const BUCKETS: usize = (64 - PRECISION as usize + 1) << PRECISION;

/// Counts of durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Histogram {
    /// Adds `times` observations of `value`.
    pub fn record(&mut self, value: Duration, times: u64) {
        let value = i64::try_from(value.as_nanos())
            .unwrap_or(i64::MAX)
            .unsigned_abs();
        self.counts[bucket(value)] += times;
        self.total += times;
    }

    /// Adds all observations of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// Returns `true` if there are no observations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Returns the value that a share of the observations does not exceed. `quantile` must be from
    /// 0 to 1.
    ///
    /// Returns zero if there are no observations.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank's rounding is far below the histogram's own precision"
    )]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Duration::from_nanos(upper_bound(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(value: u64) -> usize {
    let magnitude = (64 - value.leading_zeros()).saturating_sub(PRECISION + 1);
    let mantissa = usize::try_from(value >> magnitude).expect("at most six bits are left");
    ((magnitude as usize) << PRECISION) + mantissa
}

fn upper_bound(bucket: usize) -> u64 {
    let magnitude = (bucket >> PRECISION).saturating_sub(1);
    let mantissa = bucket - (magnitude << PRECISION);
    ((mantissa as u64 + 1) << magnitude) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thirtieth() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000 {
            histogram.record(Duration::from_nanos(value), 1);
        }
        for (quantile, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let found = histogram.quantile(quantile).as_secs_f64() * 1e9;
            assert!((found / exact - 1.0).abs() < 0.034, "{quantile}: {found}");
        }
    }

    #[test]
    fn every_value_lies_within_its_bucket() {
        for value in
            (0..64)
                .map(|shift| 1_u64 << shift)
                .chain([0, 3, 63, 64, 65, 1_000_003, u64::MAX >> 1])
        {
            assert!(upper_bound(bucket(value)) >= value, "{value}");
            assert!(
                bucket(value) == 0 || upper_bound(bucket(value) - 1) < value,
                "{value}"
            );
        }
    }

    #[test]
    fn quantile_of_an_empty_histogram_is_zero() {
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }
}
