//! Contestants take turns, so that what changes slowly on the machine meets all of them alike.

use std::{fmt, io};

use super::{Case, Group};
use crate::{histogram::Histogram, stats::Quartiles};

/// What was seen of one contestant in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// CPU nanoseconds a message.
    pub cpu: f64,
    /// Messages a second.
    pub rate: f64,
    /// From sending a message to having it back; empty where that is not measured.
    pub latency: Histogram,
    /// The highest resident set in bytes, where the contestant has a process of its own.
    pub peak: Option<u64>,
}

/// What was seen of all contestants in a case.
#[derive(Debug)]
pub struct Measured {
    case: Case,
    entries: Vec<Entry>,
}

/// A line of the table; the reference has two, to show how far a contestant is from itself.
#[derive(Debug)]
struct Entry {
    name: String,
    samples: Vec<Sample>,
}

/// Measures each of the contestants by its place in `names`, and the group's reference once more, in each round. Whoever
/// fails is left out from then on, and the reason is among the failures.
pub(super) fn take_turns(
    case: Case,
    names: &[&str],
    rounds: usize,
    mut measure: impl FnMut(usize) -> io::Result<Sample>,
) -> (Measured, Vec<String>) {
    let reference = case.group().references()[0];
    let again = names.iter().position(|name| *name == reference);
    let contestants: Vec<usize> = (0..names.len()).chain(again).collect();
    let mut entries: Vec<Entry> = names
        .iter()
        .map(|name| (*name).to_owned())
        .chain(again.map(|_| again_name(reference)))
        .map(|name| Entry {
            name,
            samples: Vec::new(),
        })
        .collect();
    let mut failures: Vec<Option<String>> = entries.iter().map(|_| None).collect();
    for round in 0..rounds {
        for turn in 0..entries.len() {
            // Each round begins with another, lest one always follow the same neighbour.
            let index = (round + turn) % entries.len();
            if failures[index].is_some() {
                continue;
            }
            let name = &entries[index].name;
            eprintln!("{case} {name} {}/{rounds}", round + 1);
            match measure(contestants[index]) {
                Ok(sample) => entries[index].samples.push(sample),
                Err(error) => failures[index] = Some(format!("{case} {name}: {error}")),
            }
        }
    }
    // a round too few would be compared with another's
    let mut whole = failures.iter().map(Option::is_none);
    entries.retain(|_| whole.next() == Some(true));
    let failures = failures.into_iter().flatten().collect();
    (Measured { case, entries }, failures)
}

fn again_name(reference: &str) -> String {
    format!("{reference}, again")
}

/// The head of the tables of a group.
pub(super) fn print_heading(group: Group) {
    let [unit, units] = group.unit();
    let references = group.references();
    let over = references.join(" | x ");
    println!(
        "| case | server | CPU ns a {unit} | x {over} | {units}/s | p50 us | p99 us | p99.9 us | peak MiB |"
    );
    println!("|---|---|{}", "--:|".repeat(references.len() + 6));
}

impl Measured {
    /// What was measured.
    #[must_use]
    pub fn case(&self) -> Case {
        self.case
    }

    /// Returns the number of rounds in which all targets were measured.
    #[must_use]
    pub fn rounds(&self) -> usize {
        let rounds = self.entries.iter().map(|entry| entry.samples.len());
        rounds.min().unwrap_or(0)
    }

    /// The median CPU time of each, in the order of the table.
    pub fn medians(&self) -> impl Iterator<Item = (&str, f64)> {
        self.entries.iter().filter_map(|entry| {
            let cpu = entry.quartiles(|sample| sample.cpu)?;
            Some((entry.name.as_str(), cpu.median))
        })
    }

    /// CPU a message of one over that of another, round by round, so that what changes slowly on the machine cancels out;
    /// `None` if one of them was not measured.
    #[must_use]
    pub fn ratio(&self, name: &str, other: &str) -> Option<Quartiles> {
        self.find(name)?.ratio(self.find(other)?)
    }

    /// The one among these that takes the least CPU time.
    #[must_use]
    pub fn cheapest(&self, among: impl Fn(&str) -> bool) -> Option<&str> {
        self.medians()
            .filter(|(name, _)| among(name))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
            .map(|(name, _)| name)
    }

    /// How far the reference is from itself: the middle half of its ratios is within this of 1.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        let reference = self.case.group().references()[0];
        let ratio = self.ratio(&again_name(reference), reference)?;
        Some((ratio.upper - 1.0).abs().max((ratio.lower - 1.0).abs()))
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Entry {
    fn quartiles(&self, of: impl Fn(&Sample) -> f64) -> Option<Quartiles> {
        Quartiles::of(self.samples.iter().map(of))
    }

    fn ratio(&self, other: &Self) -> Option<Quartiles> {
        let rounds = self.samples.iter().zip(&other.samples);
        Quartiles::of(rounds.map(|(mine, others)| mine.cpu / others.cpu))
    }

    fn latency(&self) -> Histogram {
        let mut latency = Histogram::default();
        for sample in &self.samples {
            latency.merge(&sample.latency);
        }
        latency
    }
}

/// The lines of the table, without its head.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let references = self.case.group().references();
        for entry in &self.entries {
            write!(f, "| {} | {} |", self.case, entry.name)?;
            match entry.quartiles(|sample| sample.cpu) {
                Some(cpu) => write!(f, " {cpu:.0} |")?,
                None => write!(f, " - |")?,
            }
            for reference in references {
                match self.find(reference).and_then(|other| entry.ratio(other)) {
                    Some(ratio) => write!(f, " {ratio} |")?,
                    None => write!(f, " - |")?,
                }
            }
            let rate = entry.quartiles(|sample| sample.rate);
            write!(f, " {:.0} |", rate.map_or(0.0, |rate| rate.median))?;
            let latency = entry.latency();
            for quantile in [0.5, 0.99, 0.999] {
                if latency.is_empty() {
                    write!(f, " - |")?;
                } else {
                    let micros = latency.quantile(quantile).as_secs_f64() * 1e6;
                    write!(f, " {micros:.1} |")?;
                }
            }
            match entry.samples.iter().filter_map(|sample| sample.peak).max() {
                Some(peak) => writeln!(f, " {:.1} |", mebibytes(peak))?,
                None => writeln!(f, " - |")?,
            }
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case::echo(1, 1, 64);

    fn cpu(cpu: f64) -> io::Result<Sample> {
        Ok(Sample {
            cpu,
            rate: 1.0,
            latency: Histogram::default(),
            peak: None,
        })
    }

    #[test]
    fn each_is_measured_once_a_round_and_the_reference_twice() {
        let mut turns = Vec::new();
        let names = ["getty", "tokio-8k"];
        let (measured, failures) = take_turns(CASE, &names, 2, |index| {
            turns.push(index);
            cpu(100.0)
        });
        // the second round begins with the next
        assert_eq!(turns, [0, 1, 1, 1, 1, 0]);
        assert_eq!(failures, [] as [String; 0]);
        let names: Vec<&str> = measured.medians().map(|(name, _)| name).collect();
        assert_eq!(names, ["getty", "tokio-8k", "tokio-8k, again"]);
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        let mut turns = 0;
        let (measured, _) = take_turns(CASE, &["tokio-8k", "getty"], 9, |index| {
            // the machine is ten times as slow from one round to the next
            let round = turns / 3;
            turns += 1;
            cpu(10_f64.powi(round) * if index == 1 { 2.0 } else { 1.0 })
        });
        let ratio = measured.ratio("getty", "tokio-8k").unwrap();
        assert_eq!((ratio.lower, ratio.upper), (2.0, 2.0));
        assert_eq!(measured.error(), Some(0.0));
    }

    #[test]
    fn one_that_fails_is_left_out_and_the_others_are_not() {
        let (measured, failures) =
            take_turns(CASE, &["tokio-8k", "ntex"], 3, |index| match index {
                1 => Err(io::Error::other("it has ended")),
                _ => cpu(100.0),
            });
        assert_eq!(failures, ["1x1x64 ntex: it has ended"]);
        assert_eq!(measured.ratio("ntex", "tokio-8k"), None);
        assert_eq!(measured.error(), Some(0.0));
    }
}
