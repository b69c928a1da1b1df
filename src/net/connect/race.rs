//! Concurrent dials to several addresses of one target (RFC 8305, "happy eyeballs").

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

/// Dials `addresses` and returns the first success, or `None` if all fail.
///
/// Each dial starts `delay` after the one before. It starts at once if a dial has failed. The
/// first success drops the dials that are still in progress. Failures are added to `failed`,
/// which the caller can read even if it drops this future.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    delay: Duration,
    dial: impl Fn(SocketAddr) -> F,
    failed: &mut Vec<(SocketAddr, io::Error)>,
) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut pending = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    while let Some(address) = pending.next() {
        let attempt = dial(address);
        running.push(async move { (address, attempt.await) });
        let wait = if pending.len() > 0 {
            delay
        } else {
            Duration::MAX
        };
        // The first failure starts the next dial, even if other dials are still in progress.
        match timeout(wait, running.next()).await {
            Ok(Some((_, Ok(winner)))) => return Some(winner),
            Ok(Some((address, Err(error)))) => record(failed, address, error),
            Ok(None) | Err(_) => {}
        }
    }
    while let Some((address, dialed)) = running.next().await {
        match dialed {
            Ok(winner) => return Some(winner),
            Err(error) => record(failed, address, error),
        }
    }
    None
}

fn record(failed: &mut Vec<(SocketAddr, io::Error)>, address: SocketAddr, error: io::Error) {
    tracing::debug!(%address, %error, "cannot connect");
    failed.push((address, error));
}

/// Returns the addresses with alternating families. The family of the first comes first because
/// the resolver prefers it. The order within a family stays the same.
pub(super) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.into_iter().collect();
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first.is_ipv6());
    let mut other = other.into_iter();
    let mut alternating = Vec::with_capacity(addresses.len());
    for address in preferred {
        alternating.push(address);
        alternating.extend(other.next());
    }
    alternating.extend(other);
    alternating
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use tokio::time::{Instant, sleep};

    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    fn v4(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 7000).into()
    }

    fn v6(n: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 7000).into()
    }

    /// Races addresses that succeed or fail after a number of milliseconds. `None` never answers.
    /// Returns the winner, the start time of each dial, and the failed addresses.
    async fn run(
        outcomes: &[(SocketAddr, Option<(u64, bool)>)],
    ) -> (Option<SocketAddr>, Vec<u128>, Vec<SocketAddr>) {
        let start = Instant::now();
        let started = RefCell::new(Vec::new());
        let addresses: Vec<_> = outcomes.iter().map(|(address, _)| *address).collect();
        let mut failed = Vec::new();
        let dial = |address: SocketAddr| {
            started.borrow_mut().push(start.elapsed().as_millis());
            let (_, outcome) = outcomes.iter().find(|(one, _)| *one == address).unwrap();
            async move {
                let Some((after, works)) = *outcome else {
                    return pending().await;
                };
                sleep(Duration::from_millis(after)).await;
                if works {
                    Ok(address)
                } else {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
            }
        };
        let winner = race(&addresses, DELAY, dial, &mut failed).await;
        let failed = failed.into_iter().map(|(address, _)| address).collect();
        (winner, started.into_inner(), failed)
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        assert_eq!(
            interleave([v6(1), v6(2), v6(3), v4(1), v4(2)]),
            [v6(1), v4(1), v6(2), v4(2), v6(3)]
        );
        assert_eq!(
            interleave([v4(1), v6(1), v6(2), v6(3)]),
            [v4(1), v6(1), v6(2), v6(3)]
        );
        assert_eq!(interleave([v4(2), v4(1)]), [v4(2), v4(1)]);
        assert!(interleave([]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_is_overtaken_by_the_next() {
        let (winner, started, failed) = run(&[
            (v6(1), None),
            (v4(1), None),
            (v6(2), Some((100, true))),
            (v4(2), Some((0, true))),
        ])
        .await;
        assert_eq!(winner, Some(v6(2)));
        assert_eq!(started, [0, 250, 500], "the fourth address is not dialed");
        assert!(failed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_address_that_answers_first_wins_over_later_dials() {
        let (winner, started, _) =
            run(&[(v6(1), Some((400, true))), (v4(1), Some((400, true)))]).await;
        assert_eq!(winner, Some(v6(1)));
        assert_eq!(started, [0, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn failure_starts_the_next_dial_at_once_and_all_failures_are_reported() {
        let (winner, started, failed) = run(&[
            (v6(1), Some((10, false))),
            (v4(1), Some((400, false))),
            (v6(2), Some((20, false))),
        ])
        .await;
        assert_eq!(winner, None);
        assert_eq!(started, [0, 10, 260]);
        assert_eq!(failed, [v6(1), v6(2), v4(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn race_without_addresses_has_no_winner() {
        assert_eq!(run(&[]).await, (None, vec![], vec![]));
    }
}
