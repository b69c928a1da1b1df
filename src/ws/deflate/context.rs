//! Compression of one message, and its inflation frame by frame. No received message depends on
//! an earlier one, so a session holds an inflater only while a message arrives.

use std::cell::RefCell;

use bytes::BytesMut;

use crate::{
    buffer_pool,
    compress::{
        contexts::{Claim, Context, Contexts, Taken},
        zlib::{Configuration, Deflater, Pooled, SYNC_MARKER, Step, with_deflater},
    },
};

/// Number of bytes that are inflated at a time. Each part is checked before the message grows.
const PART: usize = 16 * 1024;
/// The end of a sync flush and an empty final block. A message must end at the end of a block.
/// Otherwise the inflater does not reach the end of this input.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

thread_local! {
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses a message and passes the result to `f` if it is shorter than the message. The
/// result has no sync marker at its end.
pub(super) fn compress<R>(
    configuration: Configuration,
    message: &[u8],
    f: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    let mut out = buffer_pool::take();
    with_deflater(configuration, |deflater| {
        deflater.write_and_flush(message, &mut out);
    });
    let compressed = out.strip_suffix(&SYNC_MARKER);
    let result = compressed
        .filter(|compressed| compressed.len() < message.len())
        .map(f);
    buffer_pool::put(out);
    result
}

/// Compresses a message that may refer to earlier ones of the same session. Passes the result
/// to `f`, which must send it, if it is shorter than the message. Otherwise the message must be
/// sent plain. The next one then begins with an empty window, because the peer does not inflate
/// this one.
pub(super) fn compress_with_context<R>(
    contexts: &Contexts,
    claim: &mut Option<Claim>,
    configuration: Configuration,
    message: &[u8],
    f: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    let mut pooled = match contexts.take(claim.take()) {
        Taken::Own(pooled) => pooled,
        Taken::Other(mut pooled) => {
            pooled.context.restart(configuration);
            pooled
        }
        Taken::None(slot) => slot.fill(Context::Deflate(Deflater::new(configuration))),
    };
    let Some(deflater) = pooled.context.deflater() else {
        unreachable!("a session puts back a compressor of deflate")
    };
    let mut out = buffer_pool::take();
    deflater.write_and_flush(message, &mut out);
    let compressed = out.strip_suffix(&SYNC_MARKER);
    let compressed = compressed.filter(|compressed| compressed.len() < message.len());
    if compressed.is_none() {
        deflater.reset();
    }
    *claim = contexts.put(pooled);
    let result = compressed.map(f);
    buffer_pool::put(out);
    result
}

/// Inflater of one message, with its state.
#[derive(Debug)]
pub(super) struct Inflation {
    stream: Pooled,
    /// Number of compressed bytes of the message in the headers of its frames.
    pub(super) announced: usize,
    /// Number of bytes at the start of the input buffer that are unmasked and not inflated.
    pub(super) unmasked: usize,
    /// `true` if the input ended with a final block.
    is_final: bool,
}

/// Result of [`Inflation::inflate`].
#[derive(Clone, Copy, Debug)]
pub(in crate::ws) struct Inflated {
    /// Number of compressed bytes that were taken.
    pub(in crate::ws) taken: usize,
    /// Number of bytes that were appended.
    pub(in crate::ws) appended: usize,
    /// `true` if there may be more to inflate without further input.
    pub(in crate::ws) has_more: bool,
}

/// Failure of [`Inflation::inflate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The input is not valid.
    Invalid,
    /// The output exceeds its maximum.
    TooLong,
}

impl Inflation {
    /// Takes an inflater of the thread for a new message.
    pub(super) fn begin() -> Self {
        Self {
            stream: Pooled::take(),
            announced: 0,
            unmasked: 0,
            is_final: false,
        }
    }

    /// Returns the inflater to its thread.
    pub(super) fn put_back(self) {
        self.stream.put_back();
    }

    /// Inflates `input` and appends at most `room` bytes to `out`, and about `step` bytes per call.
    pub(super) fn inflate(
        &mut self,
        input: &[u8],
        out: &mut BytesMut,
        room: usize,
        step: usize,
    ) -> Result<Inflated, Failure> {
        PLAIN.with(|plain| {
            let mut plain = plain.borrow_mut();
            plain.resize(PART, 0);
            let (mut taken, mut appended) = (0, 0);
            loop {
                let (consumed, produced, ended) = self.run(&input[taken..], &mut plain)?;
                taken += consumed;
                if produced > room - appended {
                    return Err(Failure::TooLong);
                }
                out.extend_from_slice(&plain[..produced]);
                appended += produced;
                if ended {
                    // A message may continue after a final block.
                    self.stream.reset();
                    self.is_final = true;
                } else if consumed > 0 {
                    self.is_final = false;
                }
                let is_drained = produced < PART;
                if taken == input.len() && (is_drained || ended) {
                    return Ok(Inflated {
                        taken,
                        appended,
                        has_more: false,
                    });
                }
                if consumed == 0 && produced == 0 && !ended {
                    return Err(Failure::Invalid);
                }
                if appended >= step {
                    return Ok(Inflated {
                        taken,
                        appended,
                        has_more: true,
                    });
                }
            }
        })
    }

    /// Inflates what the end of the message completes, and checks that the message is complete.
    /// Appends at most `room` bytes to `out`. Returns their number.
    pub(super) fn finish(&mut self, out: &mut BytesMut, room: usize) -> Result<usize, Failure> {
        // A message without any byte is empty. Some peers send it so.
        if self.is_final || self.announced == 0 {
            return Ok(0);
        }
        let (mut taken, mut appended) = (0, 0);
        let mut plain = [0; 1024];
        loop {
            let (consumed, produced, ended) = self.run(&END[taken..], &mut plain)?;
            taken += consumed;
            if produced > room - appended {
                return Err(Failure::TooLong);
            }
            out.extend_from_slice(&plain[..produced]);
            appended += produced;
            match ended {
                // The marker may be the length of an empty block that is final, as in the one byte
                // of 1 that is left of the empty message of some peers.
                true if taken == SYNC_MARKER.len() => return Ok(appended),
                true if taken == END.len() => return Ok(appended),
                true => return Err(Failure::Invalid),
                false if produced < plain.len() => return Err(Failure::Invalid),
                false => {}
            }
        }
    }

    /// Inflates once. Returns how many bytes were taken, how many were written, and `true` after a
    /// final block.
    fn run(&mut self, input: &[u8], plain: &mut [u8]) -> Result<(usize, usize, bool), Failure> {
        match self.stream.step(input, plain) {
            Ok(Step {
                consumed,
                produced,
                ended,
                corrupt: false,
            }) => Ok((consumed, produced, ended)),
            _ => Err(Failure::Invalid),
        }
    }
}
