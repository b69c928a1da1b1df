//! Dialling several addresses of one target beside one another (RFC 8305, "happy eyeballs").

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

/// Dials `addresses` until one of them answers: one after another, `stagger` apart, or at once when one has failed. The
/// attempts that are still under way when the first succeeds are dropped. Those that fail are noted in `failed`, which
/// is the caller's so that it can be read when this is dropped. `None` when all have failed.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    stagger: Duration,
    dial: impl Fn(SocketAddr) -> F,
    failed: &mut Vec<(SocketAddr, io::Error)>,
) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    while let Some(address) = waiting.next() {
        let attempt = dial(address);
        running.push(async move { (address, attempt.await) });
        let wait = if waiting.len() > 0 {
            stagger
        } else {
            Duration::MAX
        };
        // more may fail in the meantime; the next is begun after the first of them
        match timeout(wait, running.next()).await {
            Ok(Some((_, Ok(winner)))) => return Some(winner),
            Ok(Some((address, Err(error)))) => note(failed, address, error),
            Ok(None) | Err(_) => {}
        }
    }
    while let Some((address, dialled)) = running.next().await {
        match dialled {
            Ok(winner) => return Some(winner),
            Err(error) => note(failed, address, error),
        }
    }
    None
}

fn note(failed: &mut Vec<(SocketAddr, io::Error)>, address: SocketAddr, error: io::Error) {
    tracing::debug!(%address, %error, "cannot connect");
    failed.push((address, error));
}

/// The addresses with their families in turn, beginning with that of the first, for that is the one that the resolver
/// prefers. Within a family their order stays.
pub(super) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.into_iter().collect();
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first.is_ipv6());
    let mut other = other.into_iter();
    let mut turns = Vec::with_capacity(addresses.len());
    for address in preferred {
        turns.push(address);
        turns.extend(other.next());
    }
    turns.extend(other);
    turns
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use tokio::time::{Instant, sleep};

    use super::*;

    const STAGGER: Duration = Duration::from_millis(250);

    fn v4(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 7000).into()
    }

    fn v6(n: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 7000).into()
    }

    /// When each dial began, and what it comes to after how long: `None` is an answer that never comes.
    async fn run(
        fates: &[(SocketAddr, Option<(u64, bool)>)],
    ) -> (Option<SocketAddr>, Vec<u128>, Vec<SocketAddr>) {
        let begin = Instant::now();
        let begun = RefCell::new(Vec::new());
        let addresses: Vec<_> = fates.iter().map(|(address, _)| *address).collect();
        let mut failed = Vec::new();
        let dial = |address: SocketAddr| {
            begun.borrow_mut().push(begin.elapsed().as_millis());
            let (_, fate) = fates.iter().find(|(one, _)| *one == address).unwrap();
            async move {
                let Some((after, works)) = *fate else {
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
        let winner = race(&addresses, STAGGER, dial, &mut failed).await;
        let failed = failed.into_iter().map(|(address, _)| address).collect();
        (winner, begun.into_inner(), failed)
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
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
        let (winner, begun, failed) = run(&[
            (v6(1), None),
            (v4(1), None),
            (v6(2), Some((100, true))),
            (v4(2), Some((0, true))),
        ])
        .await;
        assert_eq!(winner, Some(v6(2)));
        assert_eq!(begun, [0, 250, 500], "the fourth was not needed");
        assert!(failed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_address_that_answers_first_wins_though_others_were_begun() {
        let (winner, begun, _) =
            run(&[(v6(1), Some((400, true))), (v4(1), Some((400, true)))]).await;
        assert_eq!(winner, Some(v6(1)));
        assert_eq!(begun, [0, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn failure_lets_the_next_begin_at_once_and_all_failures_are_told() {
        let (winner, begun, failed) = run(&[
            (v6(1), Some((10, false))),
            (v4(1), Some((400, false))),
            (v6(2), Some((20, false))),
        ])
        .await;
        assert_eq!(winner, None);
        assert_eq!(begun, [0, 10, 260]);
        assert_eq!(failed, [v6(1), v6(2), v4(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_addresses_are_no_winner() {
        assert_eq!(run(&[]).await, (None, vec![], vec![]));
    }
}
