//! Helpers of all targets: input, pieces of a stream, a transport of getty-test, a runtime.

mod inflate;
mod input;

use std::time::Duration;

pub(crate) use getty_test::{Peer, Stream as Wire};
use tokio::{runtime::Builder, time::timeout};

pub(crate) use self::{
    inflate::{Ending, inflate},
    input::Input,
};

/// Creates a stream without input. Other tasks run between two reads.
pub(crate) fn wire() -> (Wire, Peer) {
    let (stream, peer) = getty_test::stream();
    peer.pause_reads();
    (stream, peer)
}

/// Sends pieces. Each arrives in a separate read.
pub(crate) fn send<'a, I: IntoIterator<Item = &'a [u8]>>(peer: &Peer, pieces: I) {
    for piece in pieces {
        peer.send(piece);
    }
}

/// Runs `future` with a paused clock.
///
/// # Panics
///
/// Panics if the future does not resolve within a day of that clock, which passes at once when
/// no task can run.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    let output = runtime.block_on(async { timeout(Duration::from_secs(24 * 3600), future).await });
    output.expect("the future resolves")
}

/// Lets all tasks run until each one waits.
pub(crate) async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Runs `check` with the stream at once, byte by byte, and in random pieces. All results must
/// be equal. Returns the result.
pub(crate) fn same_for_all_pieces<R: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    seed: u8,
    mut check: impl FnMut(Vec<&[u8]>) -> R,
) -> R {
    let whole = check(vec![bytes]);
    // Longer streams byte by byte would cost more than they find.
    if bytes.len() <= 512 {
        assert_eq!(check(bytes.chunks(1).collect()), whole, "byte by byte");
    }
    assert_eq!(check(pieces(bytes, seed)), whole, "in pieces of {seed}");
    whole
}

/// Splits `bytes` into pieces whose sizes depend on `seed`: some are single bytes, some are
/// longer.
pub(crate) fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(seed);
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [first, .., last] = state.to_be_bytes();
        let most = [1, 3, 9, 40, 255][usize::from(first) % 5];
        let size = 1 + usize::from(last) % most;
        let (piece, later) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces
}
