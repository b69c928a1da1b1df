//! What stands on command lines: options with their values, which are numbers for the most part.

use std::{error::Error, num::NonZero, process::ExitCode, time::Duration};

/// The options in the order in which they stand, each with its value, which is empty for those of `alone`.
///
/// Which of the others there are is for the caller to say.
///
/// # Errors
///
/// If the last one has no value; `usage` is told then.
pub fn pairs<'a>(
    options: &[&'a str],
    alone: &[&str],
    usage: &str,
) -> Result<Vec<(&'a str, &'a str)>, Box<dyn Error>> {
    let mut words = options.iter().copied();
    let mut pairs = Vec::new();
    while let Some(option) = words.next() {
        let value = if alone.contains(&option) {
            ""
        } else {
            words
                .next()
                .ok_or_else(|| format!("{option} has no value\n{usage}"))?
        };
        pairs.push((option, value));
    }
    Ok(pairs)
}

/// How a program without options ends that was given some: with its usage if that was asked for.
#[must_use]
pub fn none_but_help(options: &[&str], usage: &str) -> ExitCode {
    if let ["--help" | "-h"] = options {
        print!("{usage}");
        ExitCode::SUCCESS
    } else {
        eprintln!("there is no {:?}\n{usage}", options.join(" "));
        ExitCode::FAILURE
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_the_next_word_unless_they_stand_alone() {
        let words = ["--rounds", "3", "--pin", "--servers", "--pin"];
        let read = pairs(&words, &["--pin"], "").unwrap();
        assert_eq!(
            read,
            [("--rounds", "3"), ("--pin", ""), ("--servers", "--pin")]
        );
        assert_eq!(pairs(&[], &["--pin"], "").unwrap(), []);
    }

    #[test]
    fn an_option_without_its_value_is_named_and_the_usage_told() {
        let refused = pairs(&["--pin", "--rounds"], &["--pin"], "usage: ..").unwrap_err();
        assert_eq!(refused.to_string(), "--rounds has no value\nusage: ..");
    }

    #[test]
    fn none_is_no_number_of_anything() {
        assert_eq!(at_least_one("--rounds", "7").unwrap(), 7);
        assert_eq!(
            millis("--millis", "250").unwrap(),
            Duration::from_millis(250)
        );
        for value in ["0", "-1", "", "seven"] {
            let refused = at_least_one("--rounds", value).unwrap_err().to_string();
            assert!(refused.contains("--rounds"), "{refused}");
        }
    }
}
