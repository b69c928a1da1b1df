//! Frames of `codec::Deflated`: each is a complete stream of raw deflate.

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::task::coop;

use super::super::work::{BYTES_PER_UNIT, MAX_UNITS};
use super::{
    Configuration, Corrupt, Inflater, MAX_ROOM, MIN_ROOM, append, inflate_work,
    pool::{Pooled, with_deflater},
};
use crate::compress::Level;

/// Exponent of the window of a frame.
const WINDOW_BITS: u8 = 15;

/// Appends `input` to `out` as a complete stream of raw deflate.
pub(crate) fn deflate_frame(level: Level, input: &[u8], out: &mut BytesMut) {
    let configuration = Configuration::for_messages(level, WINDOW_BITS);
    with_deflater(configuration, |deflater| deflater.write_all(input, out));
    charge(input.len());
}

/// Takes the units of tokio's cooperative budget for `work` bytes. A codec cannot wait. The
/// session yields at its next check. Otherwise it would only count the compressed bytes.
fn charge(work: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..(work / BYTES_PER_UNIT).min(MAX_UNITS) {
        match coop::poll_proceed(&mut cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

/// Reason why a frame cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The bytes are not one complete stream of raw deflate.
    Corrupt,
    /// The frame has more than the maximum.
    TooLong,
}

/// Appends the bytes of a complete stream of raw deflate to `out`. They are at most `max`.
pub(crate) fn inflate_frame(
    input: &[u8],
    max: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let mut inflater = Pooled::take();
    let before = out.len();
    let result = inflate_all(&mut inflater, input, max, out);
    inflater.put_back();
    charge(inflate_work(input.len(), out.len() - before));
    result
}

fn inflate_all(
    inflater: &mut Inflater,
    mut input: &[u8],
    max: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let (start, mut room) = (out.len(), 4 * input.len());
    loop {
        // One byte beyond the maximum shows that the frame exceeds it.
        let left = max - (out.len() - start);
        room = room.clamp(MIN_ROOM, MAX_ROOM).min(left + 1);
        let step = append(out, room, |room| match inflater.step(input, room) {
            Ok(step) => (step.produced, Ok(step)),
            Err(Corrupt) => (0, Err(FrameError::Corrupt)),
        })?;
        if step.produced > left {
            return Err(FrameError::TooLong);
        }
        input = &input[step.consumed..];
        match (step.ended, input.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => return Err(FrameError::Corrupt),
            (false, _) if step.produced < room => return Err(FrameError::Corrupt),
            (false, _) => room *= 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_of_a_frame_is_exact() {
        for length in [0, 1, 5, 1_000, 100_000] {
            let text = vec![b'x'; length];
            let mut compressed = BytesMut::new();
            deflate_frame(Level::DEFAULT, &text, &mut compressed);
            let mut out = BytesMut::from("before");
            inflate_frame(&compressed, length, &mut out).unwrap();
            assert_eq!(out[6..], text[..]);
            if length > 0 {
                let refused = inflate_frame(&compressed, length - 1, &mut BytesMut::new());
                assert_eq!(refused, Err(FrameError::TooLong));
            }
            for part in 0..compressed.len() {
                let refused = inflate_frame(&compressed[..part], length, &mut BytesMut::new());
                assert_eq!(refused, Err(FrameError::Corrupt));
            }
            compressed.extend_from_slice(b"x");
            let refused = inflate_frame(&compressed, length, &mut BytesMut::new());
            assert_eq!(refused, Err(FrameError::Corrupt));
        }
    }
}
