//! Rounds of a case. The contestants take turns, so slow changes of the machine will affect all
//! of them equally.

use std::{fmt, io};

use super::{Case, Group};
use crate::measure::{Histogram, Quartiles, Sample, again, schedule};

/// Measurements of all contestants in a case.
#[derive(Debug)]
pub struct Measured {
    case: Case,
    entries: Vec<Entry>,
}

/// A row of the table. A repeated reference has two rows.
#[derive(Debug)]
struct Entry {
    name: String,
    samples: Vec<Sample>,
}

/// Measures the contestants in turns.
///
/// The contestants in `repeated` are measured a second time in each round. `measure` receives
/// an index into `names`. A contestant that fails will be left out and the reason is in the
/// second result.
pub fn take_turns(
    case: Case,
    names: &[&str],
    repeated: &[&str],
    rounds: usize,
    mut measure: impl FnMut(usize) -> io::Result<Sample>,
) -> (Measured, Vec<String>) {
    let repeated = repeated
        .iter()
        .filter_map(|name| names.iter().position(|known| known == name));
    let contestants: Vec<usize> = (0..names.len()).chain(repeated).collect();
    let mut entries: Vec<Entry> = contestants
        .iter()
        .enumerate()
        .map(|(entry, &index)| Entry {
            name: if entry < names.len() {
                names[index].to_owned()
            } else {
                again(names[index])
            },
            samples: Vec::new(),
        })
        .collect();
    let mut failures: Vec<Option<String>> = entries.iter().map(|_| None).collect();
    for (round, index) in schedule(rounds, entries.len()) {
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
    // Ratios pair the samples by round, so an entry with a missing round must be removed.
    let mut complete = failures.iter().map(Option::is_none);
    entries.retain(|_| complete.next() == Some(true));
    let failures = failures.into_iter().flatten().collect();
    (Measured { case, entries }, failures)
}

/// Prints the heading of the tables of a group.
pub fn print_heading(group: Group) {
    let [unit, units] = group.unit();
    let references = group.references();
    let over = references.join(" | x ");
    println!(
        "| case | server | CPU ns a {unit} | x {over} | {units}/s | p50 us | p99 us \
         | p99.9 us | peak MiB |"
    );
    println!("|---|---|{}", "--:|".repeat(references.len() + 6));
}

impl Measured {
    /// Returns the case.
    #[must_use]
    pub fn case(&self) -> Case {
        self.case
    }

    /// Returns the number of rounds in which all contestants were measured.
    #[must_use]
    pub fn rounds(&self) -> usize {
        let rounds = self.entries.iter().map(|entry| entry.samples.len());
        rounds.min().unwrap_or(0)
    }

    /// Returns the median CPU time of each contestant in the order of the table.
    pub fn medians(&self) -> impl Iterator<Item = (&str, f64)> {
        self.entries.iter().filter_map(|entry| {
            let cpu = entry.quartiles(|sample| sample.cpu)?;
            Some((entry.name.as_str(), cpu.median))
        })
    }

    /// Returns the ratio of the CPU times of two contestants. `None` if one was not measured.
    #[must_use]
    pub fn ratio(&self, name: &str, other: &str) -> Option<Quartiles> {
        self.find(name)?.ratio(self.find(other)?)
    }

    /// Returns the contestant with the lowest CPU time among those that `among` accepts.
    #[must_use]
    pub fn cheapest(&self, among: impl Fn(&str) -> bool) -> Option<&str> {
        self.medians()
            .filter(|(name, _)| among(name))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
            .map(|(name, _)| name)
    }

    /// Returns the error of the case: the maximum distance of the reference's quartiles from
    /// itself.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        let reference = self.case.group().references()[0];
        let ratio = self.ratio(&again(reference), reference)?;
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
        let cpu = |entry: &Self| {
            entry
                .samples
                .iter()
                .map(|sample| sample.cpu)
                .collect::<Vec<_>>()
        };
        Quartiles::of_ratios(cpu(self), cpu(other))
    }

    fn latency(&self) -> Histogram {
        let mut latency = Histogram::default();
        for sample in &self.samples {
            latency.merge(&sample.latency);
        }
        latency
    }
}

/// Formats the rows of the table without its heading.
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

#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
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
    fn each_contestant_is_measured_once_in_a_round_and_the_reference_twice() {
        let mut turns = Vec::new();
        let names = ["getty", "tokio-8k"];
        let (measured, failures) = take_turns(CASE, &names, &["tokio-8k"], 2, |index| {
            turns.push(index);
            cpu(100.0)
        });
        // The second round starts with the next contestant.
        assert_eq!(turns, [0, 1, 1, 1, 1, 0]);
        assert_eq!(failures, [] as [String; 0]);
        let names: Vec<&str> = measured.medians().map(|(name, _)| name).collect();
        assert_eq!(names, ["getty", "tokio-8k", "tokio-8k, again"]);
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        let mut turns = 0;
        let (measured, _) = take_turns(CASE, &["tokio-8k", "getty"], &["tokio-8k"], 9, |index| {
            // The machine is ten times slower in each round.
            let round = turns / 3;
            turns += 1;
            cpu(10_f64.powi(round) * if index == 1 { 2.0 } else { 1.0 })
        });
        let ratio = measured.ratio("getty", "tokio-8k").unwrap();
        assert_eq!((ratio.lower, ratio.upper), (2.0, 2.0));
        assert_eq!(measured.error(), Some(0.0));
    }

    #[test]
    fn failed_contestant_is_left_out_and_the_others_stay() {
        let (measured, failures) = take_turns(
            CASE,
            &["tokio-8k", "ntex"],
            &["tokio-8k"],
            3,
            |index| match index {
                1 => Err(io::Error::other("the process has ended")),
                _ => cpu(100.0),
            },
        );
        assert_eq!(failures, ["1x1x64 ntex: the process has ended"]);
        assert_eq!(measured.ratio("ntex", "tokio-8k"), None);
        assert_eq!(measured.error(), Some(0.0));
    }
}
