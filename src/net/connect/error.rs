//! The error of a failed dial, and its causes.

use std::{error::Error, fmt, io, net::SocketAddr, time::Duration};

/// Error of a failed dial, with its target.
///
/// The cause is its [`source`](Error::source). A dial sends no message, so it may always be
/// retried.
///
/// ```
/// use std::io;
/// use getty::net::ConnectError;
///
/// let refused = ConnectError::new("10.0.0.1:7000", io::ErrorKind::ConnectionRefused.into());
/// assert_eq!(refused.to_string(), "cannot connect to 10.0.0.1:7000");
/// assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
/// ```
#[derive(Debug)]
pub struct ConnectError {
    target: Box<str>,
    source: io::Error,
}

impl ConnectError {
    /// Creates the error of a dial to `target`, for custom connectors.
    pub fn new(target: impl Into<Box<str>>, source: io::Error) -> Self {
        Self {
            target: target.into(),
            source,
        }
    }

    /// Returns the target in readable form. A host name is quoted, as the caller passed it.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the kind of the cause. If several addresses failed, it is the kind of the last
    /// failure.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Returns each address and its error, in the order of their failures.
    ///
    /// The slice is empty unless the target has several addresses.
    #[must_use]
    pub fn attempts(&self) -> &[(SocketAddr, io::Error)] {
        let all = self.source.get_ref().and_then(|cause| cause.downcast_ref());
        all.map_or(&[], |AllFailed(attempts)| attempts)
    }

    /// Returns `true` if the peer did not answer within the connect timeout, or within the
    /// operating system's own limit.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == io::ErrorKind::TimedOut
    }

    /// Returns `true` if the socket connected to itself, which
    /// [`TcpConnector`](crate::net::TcpConnector) refuses. If several addresses failed, one such
    /// failure is enough.
    #[must_use]
    pub fn is_self_connect(&self) -> bool {
        let is_self =
            |error: &io::Error| matches!(error.get_ref(), Some(cause) if cause.is::<SelfConnect>());
        is_self(&self.source) || self.attempts().iter().any(|(_, error)| is_self(error))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}", self.target)
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Cause of a dial that reached its own socket.
#[derive(Debug)]
struct SelfConnect;

impl fmt::Display for SelfConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the socket connected to itself, because nothing listens on the target's port")
    }
}

impl Error for SelfConnect {}

/// Returns the error of a dial that reached its own socket. Its kind is the one of a port
/// without a listener.
pub(crate) fn self_connect() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, SelfConnect)
}

/// Cause of a dial whose addresses all failed. Holds at least two.
#[derive(Debug)]
struct AllFailed(Vec<(SocketAddr, io::Error)>);

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (address, error)) in self.0.iter().enumerate() {
            let separator = if n > 0 { "; " } else { "" };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

// Has no `source`, because there are several. `Display` prints all failures.
impl Error for AllFailed {}

/// Returns the error of a dial without an address left to try.
pub(super) fn all_failed(mut attempts: Vec<(SocketAddr, io::Error)>) -> io::Error {
    match attempts.pop() {
        None => io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the target has no address, or none of the local address's family",
        ),
        Some((_, error)) if attempts.is_empty() => error,
        Some(last) => {
            let kind = last.1.kind();
            attempts.push(last);
            io::Error::new(kind, AllFailed(attempts))
        }
    }
}

/// Returns the error of a dial that exceeded the connect timeout.
pub(super) fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no answer within the connect timeout of {limit:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_error_converts_to_an_io_error_of_its_kind_that_names_the_target() {
        let error = ConnectError::new("10.0.0.1:7000", self_connect());
        assert!(error.is_self_connect());
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "cannot connect to 10.0.0.1:7000");
    }
}
