//! Medians and quartiles.

use std::fmt;

/// The median and the middle half of a series of figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// Lower quartile: a quarter of the figures are below.
    pub lower: f64,
    /// Median: half of the figures are below.
    pub median: f64,
    /// Upper quartile: a quarter of the figures are above.
    pub upper: f64,
}

impl Quartiles {
    /// Returns the quartiles of `figures`. They are interpolated between neighbours. `None` if
    /// there are no figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            lower: quantile(&sorted, 1)?,
            median: quantile(&sorted, 2)?,
            upper: quantile(&sorted, 3)?,
        })
    }

    /// Returns the quartiles of the ratios of two series. Ratios are taken pair by pair.
    ///
    /// Each pair must be from one round, so that slow changes of the machine will cancel out.
    pub fn of_ratios(
        figures: impl IntoIterator<Item = f64>,
        reference: impl IntoIterator<Item = f64>,
    ) -> Option<Self> {
        let pairs = figures.into_iter().zip(reference);
        Self::of(pairs.map(|(figure, reference)| figure / reference))
    }
}

/// Formats as `1.02 (0.99-1.04)`: the median and then the quartiles.
impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.digits$} ({:.digits$}-{:.digits$})",
            self.median, self.lower, self.upper
        )
    }
}

fn quantile(sorted: &[f64], quarters: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let (index, rest) = (last * quarters / 4, last * quarters % 4);
    let next = sorted[(index + 1).min(last)];
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    Some(sorted[index] + (next - sorted[index]) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let quartiles = Quartiles::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (quartiles.lower, quartiles.median, quartiles.upper),
            (1.75, 2.5, 3.25)
        );
        assert_eq!(quartiles.to_string(), "2.50 (1.75-3.25)");
    }

    #[test]
    fn quartiles_of_one_figure_equal_it() {
        let quartiles = Quartiles::of([7.0]).unwrap();
        assert_eq!((quartiles.lower, quartiles.upper), (7.0, 7.0));
    }

    #[test]
    fn no_figures_have_no_quartiles() {
        assert_eq!(Quartiles::of([]), None);
    }
}
