//! Figures of an earlier day, as committed, and what today's are beside them.

use std::{error::Error, fmt, fs, io, path::PathBuf, str::FromStr};

use super::{Scenario, Standing};

/// How many percent a figure may be above its baseline.
pub const TOLERANCE: f64 = 3.0;

/// The figures of one compiler: its version, then a scenario and its figure a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// What `rustc --version` says.
    pub compiler: String,
    /// Scenarios and their figures, in the order of the table.
    pub figures: Vec<(String, f64)>,
}

impl Baseline {
    /// Where it is committed.
    #[must_use]
    pub fn path() -> PathBuf {
        crate::sources().join("instructions.txt")
    }

    /// The committed one.
    ///
    /// # Errors
    ///
    /// If the file is not there or not as expected.
    pub fn read() -> Result<Self, Box<dyn Error + Send + Sync>> {
        fs::read_to_string(Self::path())?.parse()
    }

    /// Makes this the committed one.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self) -> io::Result<()> {
        fs::write(Self::path(), self.to_string())
    }

    /// What was counted of this scenario.
    #[must_use]
    pub fn figure(&self, scenario: &str) -> Option<f64> {
        let mut figures = self.figures.iter();
        figures
            .find(|(name, _)| name == scenario)
            .map(|&(_, figure)| figure)
    }

    /// This with those of `now` that it lacks, and without those that are not in `now`.
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

    /// Why `now`, the figures of `scenarios`, is not to be committed without another baseline. Nothing where another
    /// compiler made them: its code says nothing about ours.
    #[must_use]
    pub fn objections(&self, scenarios: &[Scenario], now: &Self) -> Vec<Objection> {
        if self.compiler != now.compiler {
            return Vec::new();
        }
        let ours = scenarios
            .iter()
            .filter(|scenario| scenario.standing() == Standing::Ours);
        let mut objections = Vec::new();
        for scenario in ours {
            let name = scenario.name();
            match (self.figure(name), now.figure(name)) {
                (None, _) => objections.push(Objection::Unknown(name.to_owned())),
                (Some(before), Some(now)) if now > before * (1.0 + TOLERANCE / 100.0) => {
                    objections.push(Objection::Grown {
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
                objections.push(Objection::Gone(name.clone()));
            }
        }
        objections
    }
}

impl FromStr for Baseline {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines();
        let compiler = lines.next().unwrap_or_default().to_owned();
        let figures = lines.map(|line| {
            let (scenario, figure) = line
                .split_once(' ')
                .ok_or_else(|| format!("no figure in {line:?}"))?;
            Ok((scenario.to_owned(), figure.parse()?))
        });
        Ok(Self {
            compiler,
            figures: figures.collect::<Result<_, Self::Err>>()?,
        })
    }
}

/// As it is committed: to a tenth, which is what repeats.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.compiler)?;
        for (scenario, figure) in &self.figures {
            writeln!(f, "{scenario} {figure:.1}")?;
        }
        Ok(())
    }
}

/// Why figures are not to be committed without another baseline.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Objection {
    /// It takes more instructions than it did.
    Grown {
        /// Of which scenario.
        scenario: String,
        /// The baseline's figure.
        before: f64,
        /// Today's.
        now: f64,
    },
    /// A scenario without a baseline is held to nothing.
    Unknown(String),
    /// A baseline without a scenario: nobody counts any more what was to be watched.
    Gone(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grown {
                scenario,
                before,
                now,
            } => {
                let percent = (now / before - 1.0) * 100.0;
                write!(
                    f,
                    "{scenario}: {now:.1}, {percent:.1}% above its baseline of {before:.1}; if that is meant, --save it in \
                     the same commit"
                )
            }
            Self::Unknown(scenario) => {
                write!(f, "no baseline for {scenario}: --add it in the same commit")
            }
            Self::Gone(scenario) => write!(
                f,
                "the baseline has {scenario}, which is no scenario: --add takes it out"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::Standing::{Ours, Reference};

    fn scenarios() -> Vec<Scenario> {
        [("ours", Ours), ("also-ours", Ours), ("theirs", Reference)]
            .map(|(name, standing)| Scenario::new(name, standing, |_| {}))
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

    fn objections(before: &[(&str, f64)], now: &[(&str, f64)]) -> Vec<String> {
        let before = figures("rustc 1", before);
        let objections = before.objections(&scenarios(), &figures("rustc 1", now));
        objections.iter().map(ToString::to_string).collect()
    }

    const BEFORE: [(&str, f64); 3] = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 300.0)];

    #[test]
    fn a_figure_may_grow_by_three_percent_and_shrink_by_any() {
        let now = [("ours", 102.9), ("also-ours", 1.0), ("theirs", 300.0)];
        assert_eq!(objections(&BEFORE, &now), [""; 0]);
    }

    #[test]
    fn one_that_grows_by_more_is_told_with_both_figures() {
        let now = [("ours", 103.1), ("also-ours", 200.0), ("theirs", 300.0)];
        let [told] = &objections(&BEFORE, &now)[..] else {
            panic!("one has grown");
        };
        assert!(
            told.contains("ours: 103.1, 3.1% above its baseline of 100.0"),
            "{told}"
        );
        assert!(told.contains("--save"), "{told}");
    }

    #[test]
    fn what_getty_is_compared_with_may_be_anything() {
        let now = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 900.0)];
        assert_eq!(objections(&BEFORE, &now), [""; 0]);
        assert_eq!(objections(&BEFORE[..2], &now), [""; 0]);
    }

    #[test]
    fn a_scenario_without_a_baseline_is_told() {
        let now = [("ours", 100.0), ("also-ours", 200.0), ("theirs", 300.0)];
        let told = objections(&[BEFORE[0], BEFORE[2]], &now);
        assert_eq!(
            told,
            ["no baseline for also-ours: --add it in the same commit"]
        );
    }

    #[test]
    fn a_baseline_without_a_scenario_is_told() {
        let before = [BEFORE[0], BEFORE[1], BEFORE[2], ("renamed", 7.0)];
        let told = objections(&before, &BEFORE);
        assert_eq!(
            told,
            ["the baseline has renamed, which is no scenario: --add takes it out"]
        );
    }

    #[test]
    fn another_compilers_figures_are_not_objected_to() {
        let before = figures("rustc 1", &[("ours", 1.0), ("renamed", 1.0)]);
        let now = figures("rustc 2", &BEFORE);
        assert_eq!(before.objections(&scenarios(), &now), []);
    }

    #[test]
    fn adding_takes_what_is_new_and_leaves_what_was() {
        let before = figures("rustc 1", &[("ours", 90.0), ("renamed", 7.0)]);
        let completed = before.completed(&figures("rustc 1", &BEFORE));
        let expected = [("ours", 90.0), ("also-ours", 200.0), ("theirs", 300.0)];
        assert_eq!(completed, figures("rustc 1", &expected));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let before = figures("rustc 1 (with a date)", &[("ours", 90.5), ("theirs", 7.0)]);
        assert_eq!(before.to_string().parse::<Baseline>().unwrap(), before);
        assert!("rustc 1\nours".parse::<Baseline>().is_err());
    }

    #[test]
    fn the_committed_baseline_can_be_read() {
        assert!(Baseline::read().unwrap().compiler.starts_with("rustc "));
    }
}
