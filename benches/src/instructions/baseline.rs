//! The committed baseline and its comparison with new figures.

use std::{fmt, fs, io, path::PathBuf, str::FromStr};

use getty::BoxError;

use super::{Policy, Scenario};

/// Maximum increase of a figure above its baseline, in percent.
pub const TOLERANCE: f64 = 3.0;

/// The figures of one compiler. The file contains its version and a line for each scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Output of `rustc --version`.
    pub compiler: String,
    /// Scenarios and their figures in the order of the table.
    pub figures: Vec<(String, f64)>,
}

impl Baseline {
    /// Returns the path of the committed baseline.
    #[must_use]
    pub fn path() -> PathBuf {
        crate::sources().join("instructions.txt")
    }

    /// Reads the committed baseline.
    ///
    /// # Errors
    ///
    /// If the file is missing or malformed.
    pub fn read() -> Result<Self, BoxError> {
        fs::read_to_string(Self::path())?.parse()
    }

    /// Writes this baseline to the committed file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self) -> io::Result<()> {
        fs::write(Self::path(), self.to_string())
    }

    /// Returns the figure of a scenario.
    #[must_use]
    pub fn figure(&self, scenario: &str) -> Option<f64> {
        let mut figures = self.figures.iter();
        figures
            .find(|(name, _)| name == scenario)
            .map(|&(_, figure)| figure)
    }

    /// Adds the figures of `now` that are missing here and removes those that `now` does not
    /// contain.
    #[must_use]
    pub fn completed(&self, now: &Self) -> Self {
        let figures = now.figures.iter().map(|(name, figure)| {
            let figure = self.figure(name).unwrap_or(*figure);
            (name.clone(), figure)
        });
        Self {
            compiler: self.compiler.clone(),
            figures: figures.collect(),
        }
    }

    /// Compares `now` with this baseline. `now` must have the figures of `scenarios`.
    ///
    /// Returns nothing if the compilers differ. Figures of different compilers cannot be compared.
    #[must_use]
    pub fn mismatches(&self, scenarios: &[Scenario], now: &Self) -> Vec<Mismatch> {
        if self.compiler != now.compiler {
            return Vec::new();
        }
        let ours = scenarios
            .iter()
            .filter(|scenario| scenario.policy() == Policy::Checked);
        let mut mismatches = Vec::new();
        for scenario in ours {
            let name = scenario.name();
            match (self.figure(name), now.figure(name)) {
                (None, _) => mismatches.push(Mismatch::Missing(name.to_owned())),
                (Some(before), Some(now)) if now > before * (1.0 + TOLERANCE / 100.0) => {
                    mismatches.push(Mismatch::Increased {
                        scenario: name.to_owned(),
                        before,
                        now,
                    });
                }
                _ => {}
            }
        }
        for (name, _) in &self.figures {
            if !scenarios.iter().any(|scenario| scenario.name() == name) {
                mismatches.push(Mismatch::Stale(name.clone()));
            }
        }
        mismatches
    }
}

impl FromStr for Baseline {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines();
        let compiler = lines.next().unwrap_or_default().to_owned();
        let figures = lines.map(|line| {
            let (scenario, figure) = line
                .split_once(' ')
                .ok_or_else(|| format!("missing figure in {line:?}"))?;
            Ok((scenario.to_owned(), figure.parse()?))
        });
        Ok(Self {
            compiler,
            figures: figures.collect::<Result<_, Self::Err>>()?,
        })
    }
}

/// Formats the file. Figures repeat to a tenth, so they have one digit after the point.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.compiler)?;
        for (scenario, figure) in &self.figures {
            writeln!(f, "{scenario} {figure:.1}")?;
        }
        Ok(())
    }
}

/// A difference that requires a new baseline.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Mismatch {
    /// A scenario takes more instructions than before.
    Increased {
        /// Name of the scenario.
        scenario: String,
        /// Figure in the baseline.
        before: f64,
        /// New figure.
        now: f64,
    },
    /// A scenario without a baseline. It would not be checked.
    Missing(String),
    /// A figure in the baseline whose scenario is not counted any more.
    Stale(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Increased {
                scenario,
                before,
                now,
            } => {
                let percent = (now / before - 1.0) * 100.0;
                write!(
                    f,
                    "{scenario}: {now:.1}, {percent:.1}% above its baseline of {before:.1}; if this \
                     is intended, --save it in the same commit"
                )
            }
            Self::Missing(scenario) => {
                write!(f, "no baseline for {scenario}: --add it in the same commit")
            }
            Self::Stale(scenario) => write!(
                f,
                "the baseline contains {scenario}, which is not a scenario: --add removes it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::Policy::{Checked, Reported};

    fn scenarios() -> Vec<Scenario> {
        [
            ("ours", Checked),
            ("also-ours", Checked),
            ("theirs", Reported),
        ]
        .map(|(name, policy)| Scenario::new(name, policy, |_| {}))
        .into()
    }

    fn figures(compiler: &str, figures: &[(&str, f64)]) -> Baseline {
        let figures = figures
            .iter()
            .map(|&(name, figure)| (name.to_owned(), figure));
        Baseline {
            compiler: compiler.to_owned(),
            figures: figures.collect(),
        }
    }

    fn mismatches(before: &[(&str, f64)], now: &[(&str, f64)]) -> Vec<String> {
        let before = figures("rustc 1", before);
        let mismatches = before.mismatches(&scenarios(), &figures("rustc 1", now));
        mismatches.iter().map(ToString::to_string).collect()
    }

    const BEFORE: [(&str, f64); 3] = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 300.0)];

    #[test]
    fn figure_may_grow_by_three_percent_and_shrink_freely() {
        let now = [("ours", 102.9), ("also-ours", 1.0), ("theirs", 300.0)];
        assert_eq!(mismatches(&BEFORE, &now), [""; 0]);
    }

    #[test]
    fn larger_growth_is_reported_with_both_figures() {
        let now = [("ours", 103.1), ("also-ours", 200.0), ("theirs", 300.0)];
        let [reported] = &mismatches(&BEFORE, &now)[..] else {
            panic!("exactly one figure has grown");
        };
        assert!(
            reported.contains("ours: 103.1, 3.1% above its baseline of 100.0"),
            "{reported}"
        );
        assert!(reported.contains("--save"), "{reported}");
    }

    #[test]
    fn reported_figures_are_not_checked() {
        let now = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 900.0)];
        assert_eq!(mismatches(&BEFORE, &now), [""; 0]);
        assert_eq!(mismatches(&BEFORE[..2], &now), [""; 0]);
    }

    #[test]
    fn scenario_without_a_baseline_is_reported() {
        let now = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 300.0)];
        let reported = mismatches(&[BEFORE[0], BEFORE[2]], &now);
        assert_eq!(
            reported,
            ["no baseline for also-ours: --add it in the same commit"]
        );
    }

    #[test]
    fn baseline_without_a_scenario_is_reported() {
        let before = [BEFORE[0], BEFORE[1], BEFORE[2], ("renamed", 7.0)];
        let reported = mismatches(&before, &BEFORE);
        assert_eq!(
            reported,
            ["the baseline contains renamed, which is not a scenario: --add removes it"]
        );
    }

    #[test]
    fn figures_of_another_compiler_are_not_compared() {
        let before = figures("rustc 1", &[("ours", 1.0), ("renamed", 1.0)]);
        let now = figures("rustc 2", &BEFORE);
        assert_eq!(before.mismatches(&scenarios(), &now), []);
    }

    #[test]
    fn adding_keeps_old_figures_and_adds_new_ones() {
        let before = figures("rustc 1", &[("ours", 90.0), ("renamed", 7.0)]);
        let completed = before.completed(&figures("rustc 1", &BEFORE));
        let expected = [("ours", 90.0), ("also-ours", 200.0), ("theirs", 300.0)];
        assert_eq!(completed, figures("rustc 1", &expected));
    }

    #[test]
    fn written_baseline_can_be_read() {
        let before = figures("rustc 1 (with a date)", &[("ours", 90.5), ("theirs", 7.0)]);
        assert_eq!(before.to_string().parse::<Baseline>().unwrap(), before);
        assert!("rustc 1\nours".parse::<Baseline>().is_err());
    }

    #[test]
    fn the_committed_baseline_can_be_read() {
        assert!(Baseline::read().unwrap().compiler.starts_with("rustc "));
    }
}
