//! Numbers on command lines.

use std::{error::Error, num::NonZero, time::Duration};

/// How many of something there are to be, without which there is nothing to measure.
///
/// # Errors
///
/// If it is no number, or none at all.
pub fn at_least_one(option: &str, value: &str) -> Result<usize, Box<dyn Error>> {
    match value.parse::<NonZero<usize>>() {
        Ok(number) => Ok(number.get()),
        Err(error) => Err(format!("{option} {value:?}: {error}").into()),
    }
}

/// How long to measure, in milliseconds.
///
/// # Errors
///
/// As [`at_least_one`].
pub fn millis(option: &str, value: &str) -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::from_millis(at_least_one(option, value)? as u64))
}
