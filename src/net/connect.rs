//! What connectors have in common: the future of a dial, its limit in time, and its error.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::Connection;
use tokio::time::timeout;

/// How long a dial may take, unless the connector is told otherwise.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A dial in progress: what the connectors of this module return from `call`.
///
/// # Cancel safety
///
/// Dropped, it gives the dial up and closes its socket. A name being resolved goes on until the resolver answers, on a
/// thread of the runtime's blocking pool.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting<Io>(BoxFuture<'static, Result<Connection<Io>, ConnectError>>);

impl<Io> Connecting<Io> {
    // Boxed because the futures of sockets have no names; that is once a dial.
    pub(super) fn new(
        dial: impl Future<Output = Result<Connection<Io>, ConnectError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(dial))
    }
}

impl<Io> Future for Connecting<Io> {
    type Output = Result<Connection<Io>, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<Io> fmt::Debug for Connecting<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}

/// Why a dial failed, and to which target.
///
/// The cause is its [`source`](Error::source). Nothing was sent, so any dial may be tried again.
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
    /// The failure of a dial to `target`, for connectors of your own.
    pub fn new(target: impl Into<Box<str>>, source: io::Error) -> Self {
        Self {
            target: target.into(),
            source,
        }
    }

    /// What was dialled, for people to read; a host name in quotes, as it was given.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The kind of the cause; of several, that of the last.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Each address that was dialled and its own error, in the order in which they failed, where the target had several;
    /// otherwise none.
    pub fn attempts(&self) -> &[(SocketAddr, io::Error)] {
        let all = self.source.get_ref().and_then(|cause| cause.downcast_ref());
        all.map_or(&[], |AllFailed(attempts)| attempts)
    }

    /// Whether nobody answered in time: within the connect timeout, or for as long as the operating system tries.
    pub fn is_timeout(&self) -> bool {
        self.kind() == io::ErrorKind::TimedOut
    }

    /// Whether the socket had connected to itself, which [`TcpConnector`](super::TcpConnector) refuses; of several
    /// addresses, whether that of any had.
    pub fn is_self_connect(&self) -> bool {
        let itself =
            |error: &io::Error| matches!(error.get_ref(), Some(cause) if cause.is::<SelfConnect>());
        itself(&self.source) || self.attempts().iter().any(|(_, error)| itself(error))
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

/// The cause of a dial that reached its own socket.
#[derive(Debug)]
struct SelfConnect;

impl fmt::Display for SelfConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the socket connected to itself, because nobody listens on the target's port")
    }
}

impl Error for SelfConnect {}

/// A self-connect means that nobody listens, which is what the kind says.
pub(super) fn self_connect() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, SelfConnect)
}

/// The cause of a dial of several addresses, none of which could be had.
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

// no source: there is more than one, and `Display` has them all
impl Error for AllFailed {}

/// Whether a socket bound to `local` can dial `target`: it has to be of the same family.
pub(super) fn can_dial(local: Option<SocketAddr>, target: &SocketAddr) -> bool {
    local.is_none_or(|local| local.is_ipv4() == target.is_ipv4())
}

/// What a dial fails with whose addresses have all failed, or which had none that it [could dial](can_dial).
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

/// What a dial that has used up the connect timeout fails with.
pub(super) fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no answer within the connect timeout of {limit:?}"),
    )
}

/// Gives `attempt` so much time.
pub(super) async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(timed_out(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dial_without_an_answer_fails_when_its_time_is_up() {
        let started = tokio::time::Instant::now();
        let error = within(CONNECT_TIMEOUT, std::future::pending::<io::Result<()>>())
            .await
            .unwrap_err();
        assert_eq!(started.elapsed(), CONNECT_TIMEOUT);

        let error = ConnectError::new("10.0.0.1:7000", error);
        assert!(error.is_timeout());
        assert_eq!(
            error.source().unwrap().to_string(),
            "no answer within the connect timeout of 3s"
        );
    }

    #[test]
    fn connect_error_becomes_an_io_error_of_its_kind_that_still_names_the_target() {
        let error = ConnectError::new("10.0.0.1:7000", self_connect());
        assert!(error.is_self_connect());
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "cannot connect to 10.0.0.1:7000");
    }
}
