//! Dials with a time limit, whose errors name the target.

use std::{fmt, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{ToSocketAddrs, lookup_host},
    time::timeout,
};

use super::{
    error::{ConnectError, all_failed, timed_out},
    race::{interleave, race},
};

/// Default time limit of a dial.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of a dial to IP addresses, which TCP and UDP share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialer {
    /// Local address to dial from. `None` leaves the choice to the operating system.
    pub(crate) local: Option<SocketAddr>,
    /// Time limit from the name lookup to the last address.
    pub(crate) timeout: Duration,
    /// Delay after which the next address is dialed concurrently. The families of the addresses
    /// alternate. With `None` the addresses are dialed one after another in the resolver's order.
    pub(crate) attempt_delay: Option<Duration>,
}

impl Dialer {
    pub(crate) const fn new() -> Self {
        Self {
            local: None,
            timeout: CONNECT_TIMEOUT,
            attempt_delay: None,
        }
    }

    /// Resolves `target` and dials its addresses with `dial`. Returns the first success.
    pub(crate) async fn dial<T, F>(
        &self,
        target: impl ToSocketAddrs + fmt::Debug,
        dial: impl Fn(SocketAddr) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = io::Result<T>>,
    {
        let name = format!("{target:?}");
        self.resolve_and_dial(target, dial)
            .await
            .map_err(|source| ConnectError::new(name, source))
    }

    async fn resolve_and_dial<T, F>(
        &self,
        target: impl ToSocketAddrs,
        dial: impl Fn(SocketAddr) -> F,
    ) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut addresses = Vec::new();
        let mut failed = Vec::new();
        let dialed = timeout(self.timeout, async {
            let resolved = lookup_host(target)
                .await?
                .filter(|address| self.can_dial(address));
            let delay = match self.attempt_delay {
                Some(delay) => {
                    addresses = interleave(resolved);
                    delay
                }
                None => {
                    addresses = resolved.collect();
                    Duration::MAX
                }
            };
            Ok(race(&addresses, delay, dial, &mut failed).await)
        });
        match dialed.await {
            Ok(Ok(Some(connection))) => Ok(connection),
            Ok(Ok(None)) => Err(all_failed(failed)),
            Ok(Err(unresolved)) => Err(unresolved),
            Err(_) => {
                for address in addresses {
                    if !failed.iter().any(|(tried, _)| *tried == address) {
                        failed.push((address, timed_out(self.timeout)));
                    }
                }
                if failed.is_empty() {
                    // The name was not resolved in time.
                    return Err(timed_out(self.timeout));
                }
                Err(all_failed(failed))
            }
        }
    }

    /// Returns `true` if a socket bound to the local address can dial `target`: both must be of the
    /// same family.
    fn can_dial(&self, target: &SocketAddr) -> bool {
        self.local
            .is_none_or(|local| local.is_ipv4() == target.is_ipv4())
    }
}

/// Runs `attempt` for at most `limit`. Errors name the `target`.
pub(crate) async fn dial_one<T>(
    limit: Duration,
    target: impl fmt::Display,
    attempt: impl Future<Output = io::Result<T>>,
) -> Result<T, ConnectError> {
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(timed_out(limit)))
        .map_err(|source| ConnectError::new(target.to_string(), source))
}

#[cfg(test)]
mod tests {
    use std::{error::Error, future::pending};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dial_without_an_answer_fails_after_its_time_limit() {
        let started = tokio::time::Instant::now();
        let error = dial_one(
            CONNECT_TIMEOUT,
            "10.0.0.1:7000",
            pending::<io::Result<()>>(),
        )
        .await
        .unwrap_err();
        assert_eq!(started.elapsed(), CONNECT_TIMEOUT);

        assert!(error.is_timeout());
        assert_eq!(error.target(), "10.0.0.1:7000");
        assert_eq!(
            error.source().unwrap().to_string(),
            "no answer within the connect timeout of 3s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_a_delay_are_dialed_one_after_another() {
        let dialer = Dialer::new();
        let addresses: [SocketAddr; 3] = [1, 2, 3].map(|n| ([192, 0, 2, n], 7000).into());
        let dial = |address| async move {
            if address == addresses[0] {
                tokio::time::sleep(Duration::from_secs(2)).await;
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            pending::<io::Result<()>>().await
        };
        let error = dialer.dial(&addresses[..], dial).await.unwrap_err();
        let kinds: Vec<_> = error
            .attempts()
            .iter()
            .map(|(address, error)| (*address, error.kind()))
            .collect();
        assert_eq!(
            kinds,
            [
                (addresses[0], io::ErrorKind::ConnectionRefused),
                (addresses[1], io::ErrorKind::TimedOut),
                (addresses[2], io::ErrorKind::TimedOut),
            ]
        );
    }
}
