//! What listeners have in common before they accept: their backlog, and an error that says which address failed.

use std::{error::Error, fmt, io};

/// Connections that the operating system completes and keeps for us until we accept them.
pub(super) const BACKLOG: u32 = 1024;

/// The cause of a failed bind, with the address: the operating system's own error does not name it.
#[derive(Debug)]
struct BindError {
    address: String,
    source: io::Error,
}

/// Names `address` in `source`; the kind stays.
pub(super) fn cannot_listen(address: impl fmt::Display, source: io::Error) -> io::Error {
    io::Error::new(
        source.kind(),
        BindError {
            address: address.to_string(),
            source,
        },
    )
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}", self.address)
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_error_keeps_its_kind_and_cause_and_names_the_address() {
        let cause = io::Error::from(io::ErrorKind::AddrInUse);
        let text = cause.to_string();
        let error = cannot_listen("[::1]:7000", cause);
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), "cannot listen on [::1]:7000");
        assert_eq!(error.source().map(ToString::to_string), Some(text));
    }
}
