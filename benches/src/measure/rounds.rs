//! Rounds of measurements. The contestants take turns.

use super::{Histogram, Quartiles};

/// One measurement of a contestant.
#[derive(Clone, Debug)]
pub struct Sample {
    /// CPU time for each message, in nanoseconds.
    pub cpu: f64,
    /// Messages per second.
    pub rate: f64,
    /// Time from sending a message to receiving it back. Empty if it is not measured.
    pub latency: Histogram,
    /// Peak resident set, in bytes. `None` if the contestant has no process for itself.
    pub peak: Option<u64>,
}

/// Returns the order of all measurements as pairs of round and contestant.
///
/// Each round must start with another contestant, so that none always follows the same
/// neighbour.
pub fn schedule(rounds: usize, contestants: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rounds).flat_map(move |round| {
        (0..contestants).map(move |turn| (round, (round + turn) % contestants))
    })
}

/// Returns the name of the second entry of a contestant.
///
/// A reference is measured twice in each round. Its distance from itself is the error of all
/// ratios.
#[must_use]
pub fn again(name: &str) -> String {
    format!("{name}, again")
}

/// Measures the contestants in turns and prints a table row for each.
///
/// The first contestant must be the reference. A row contains `case`, the name, the CPU time,
/// and the ratio to the first contestant. `cost` returns the CPU time of one sample.
pub fn print_costs<T>(
    case: &str,
    contestants: &[(String, T)],
    rounds: usize,
    cost: impl Fn(&T) -> f64,
) {
    let mut samples = vec![Vec::with_capacity(rounds); contestants.len()];
    for (_, index) in schedule(rounds, contestants.len()) {
        samples[index].push(cost(&contestants[index].1));
    }
    for ((name, _), costs) in contestants.iter().zip(&samples) {
        let ratio = Quartiles::of_ratios(costs.iter().copied(), samples[0].iter().copied());
        if let (Some(cpu), Some(ratio)) = (Quartiles::of(costs.iter().copied()), ratio) {
            println!("| {case} | {name} | {cpu:.1} | {ratio} |");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_starts_with_another_contestant() {
        let order: Vec<_> = schedule(2, 3).collect();
        assert_eq!(order, [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 0)]);
        assert_eq!(schedule(3, 0).count(), 0);
    }
}
