//! Binding of listeners: the backlog, the choice of an address, and an error that names it.

use std::{error::Error, fmt, io, net::SocketAddr};

use tokio::net::{ToSocketAddrs, lookup_host};

/// Default number of connections that wait until the listener accepts them.
pub(super) const BACKLOG: u32 = 1024;

/// Resolves `address` and returns the first address for which `bind` succeeds.
///
/// # Errors
///
/// Fails if the name cannot be resolved or has no address. Otherwise returns the error of the
/// last address, which names it.
pub(super) async fn bind_first<T>(
    address: impl ToSocketAddrs,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut failed = None;
    for address in lookup_host(address).await? {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => failed = Some(cannot_listen(address, error)),
        }
    }
    Err(failed
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on")))
}

/// Adds `address` to `source` because the operating system's error does not name it. The kind
/// stays the same.
pub(super) fn cannot_listen(address: impl fmt::Display, source: io::Error) -> io::Error {
    io::Error::new(
        source.kind(),
        BindError {
            address: address.to_string(),
            source,
        },
    )
}

/// Error of a failed bind, with the address.
struct BindError {
    address: String,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}", self.address)
    }
}

/// A sentence, because programs that return the error from `main` print this.
impl fmt::Debug for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}: {}\"", self.source)
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
        assert_eq!(error.source().map(ToString::to_string), Some(text.clone()));
        assert_eq!(
            format!("{error:?}"),
            format!("Custom {{ kind: AddrInUse, error: \"cannot listen on [::1]:7000: {text}\" }}")
        );
    }

    #[tokio::test]
    async fn bind_without_an_address_is_invalid_input() {
        let none: &[SocketAddr] = &[];
        let error = bind_first(none, |_| Ok(())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
