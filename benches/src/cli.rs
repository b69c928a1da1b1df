//! Command lines of the programs: the main function, options, and numbers.

use std::{num::NonZero, process::ExitCode, time::Duration};

use getty::BoxError;

/// Runs a program with the arguments of this process.
///
/// `--help` and `-h` print `usage`. An error is printed with the name of the program.
pub fn run(
    program: &str,
    usage: &str,
    main: impl FnOnce(&[&str]) -> Result<(), BoxError>,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--help" | "-h"] = arguments[..] {
        print!("{usage}");
        return ExitCode::SUCCESS;
    }
    match main(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns each option with its value in order. The value of a flag is empty.
///
/// The caller must check that the other options exist.
///
/// # Errors
///
/// If the last option has no value or does not occur in `usage`. The message contains `usage`.
pub fn pairs<'a>(
    options: &[&'a str],
    flags: &[&str],
    usage: &str,
) -> Result<Vec<(&'a str, &'a str)>, BoxError> {
    let mut words = options.iter().copied();
    let mut pairs = Vec::new();
    while let Some(option) = words.next() {
        let value = if flags.contains(&option) {
            ""
        } else {
            match words.next() {
                Some(value) => value,
                // the usage lists every option
                None if usage.contains(option) => {
                    return Err(format!("{option} needs a value\n{usage}").into());
                }
                None => return Err(unknown(option, usage)),
            }
        };
        pairs.push((option, value));
    }
    Ok(pairs)
}

/// Returns the error for an option that the program does not have.
#[must_use]
pub fn unknown(option: &str, usage: &str) -> BoxError {
    format!("unknown option {option}\n{usage}").into()
}

/// Parses a number that must not be zero.
///
/// # Errors
///
/// If the value is not a number or zero.
pub fn at_least_one(option: &str, value: &str) -> Result<usize, BoxError> {
    match value.parse::<NonZero<usize>>() {
        Ok(number) => Ok(number.get()),
        Err(error) => Err(format!("{option} {value:?}: {error}").into()),
    }
}

/// Parses a duration in milliseconds. It must not be zero.
///
/// # Errors
///
/// If the value is not a number or zero.
pub fn millis(option: &str, value: &str) -> Result<Duration, BoxError> {
    Ok(Duration::from_millis(at_least_one(option, value)? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_the_next_word_as_their_value_and_flags_do_not() {
        let words = ["--rounds", "3", "--pin", "--servers", "--pin"];
        let read = pairs(&words, &["--pin"], "").unwrap();
        assert_eq!(
            read,
            [("--rounds", "3"), ("--pin", ""), ("--servers", "--pin")]
        );
        assert_eq!(pairs(&[], &["--pin"], "").unwrap(), []);
    }

    #[test]
    fn missing_value_names_the_option_and_prints_the_usage() {
        let usage = "usage: [--pin] [--rounds N]";
        let error = pairs(&["--pin", "--rounds"], &["--pin"], usage).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("--rounds needs a value\n{usage}")
        );
        let error = pairs(&["--round"], &["--pin"], "usage: [--pin]").unwrap_err();
        assert_eq!(error.to_string(), "unknown option --round\nusage: [--pin]");
    }

    #[test]
    fn zero_and_words_are_not_valid_numbers() {
        assert_eq!(at_least_one("--rounds", "7").unwrap(), 7);
        assert_eq!(
            millis("--millis", "250").unwrap(),
            Duration::from_millis(250)
        );
        for value in ["0", "-1", "", "seven"] {
            let error = at_least_one("--rounds", value).unwrap_err().to_string();
            assert!(error.contains("--rounds"), "{error}");
        }
    }
}
