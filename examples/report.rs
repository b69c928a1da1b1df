//! Errors of the examples as their users read them: the error, its causes and a cure. All
//! examples share this file.

use std::{error::Error, fmt, io, iter::successors};

use getty::BoxError;

/// Error of an example. `main` prints its `Debug`.
pub(crate) struct Report(BoxError);

impl<E: Into<BoxError>> From<E> for Report {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: &(dyn Error + 'static) = &*self.0;
        write!(f, "{first}")?;
        for cause in successors(first.source(), |&error| error.source()) {
            write!(f, "\n  because: {cause}")?;
        }
        match successors(Some(first), |&error| error.source()).find_map(cure) {
            Some(cure) => write!(f, "\n  {cure}"),
            None => Ok(()),
        }
    }
}

/// Returns advice for an error that users of the examples can cause.
fn cure(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if error.is::<lexopt::Error>() {
        return Some("the first lines of the example's file list its arguments");
    }
    let error: &io::Error = error.downcast_ref()?;
    Some(match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or pass another address \
             (the first lines of the example's file show how)"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: pass another one",
        io::ErrorKind::ConnectionRefused => "no program listens there: start the server first",
        io::ErrorKind::InvalidInput => "an address is a host and a port, such as 127.0.0.1:7000",
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 and files of other users need more rights"
        }
        _ => return None,
    })
}

/// Returns the address in the only argument, or `default` without arguments.
#[allow(dead_code, reason = "some examples have flags")]
pub(crate) fn address(default: &str) -> Result<String, lexopt::Error> {
    let mut arguments = lexopt::Parser::from_env();
    let mut address = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Value(value) if address.is_none() => {
                address = Some(value.into_string().map_err(lexopt::Error::from)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(address.unwrap_or_else(|| default.to_owned()))
}
