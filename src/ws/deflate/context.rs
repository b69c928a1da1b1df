//! Contexts of zlib-rs: compressors of each thread, and inflaters that sessions hold while a
//! message arrives.
//!
//! An inflater takes 48 KiB and a compressor about 380 KiB. Creating one takes longer than
//! compressing a message, so each thread keeps a few. No message depends on an earlier one, so a
//! session may use any context.

use std::{
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
};

use bytes::BytesMut;
use zlib_rs::{DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use crate::compress::Level;

/// Maximum number of compressors that a thread keeps. Sessions of a thread differ in level and
/// window only if a program uses several settings or a peer asks for a smaller window.
const MAX_COMPRESSORS: usize = 2;
/// Maximum number of unused inflaters that a thread keeps.
const MAX_INFLATERS: usize = 4;
/// Number of bytes that are inflated at a time. Each part is checked before the message grows.
const PART: usize = 16 * 1024;
/// Maximum size in bytes of the buffer for compressed bytes that a thread keeps.
const MAX_KEPT: usize = 256 * 1024;
/// End of a sync flush, which is not on the wire.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The end of a sync flush and an empty final block. A message must end at the end of a block.
/// Otherwise the inflater does not reach the end of this input.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

thread_local! {
    static COMPRESSORS: RefCell<Compressors> = const { RefCell::new(Compressors::new()) };
    static INFLATERS: RefCell<Vec<Inflater>> = const { RefCell::new(Vec::new()) };
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Configuration of a compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) level: Level,
    /// Base-2 logarithm of the window in bytes, from 9 to 15.
    pub(super) window_bits: u8,
}

/// Compressors of a thread, the most recently used last, and the buffer for their output.
struct Compressors {
    streams: Vec<(Configuration, zlib_rs::Deflate)>,
    /// Initialized bytes. They begin with the last output.
    out: Vec<u8>,
}

impl Compressors {
    const fn new() -> Self {
        Self {
            streams: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Compresses a message completely, because a compressor must not be reset before. Returns the
    /// length of the result in `out` if it is shorter than the message.
    fn compress(&mut self, configuration: Configuration, message: &[u8]) -> Option<usize> {
        let known = self
            .streams
            .iter()
            .rposition(|(known, _)| *known == configuration);
        let last = self.streams.len().wrapping_sub(1);
        match known {
            Some(at) if at == last => {}
            Some(at) => self.streams[at..].rotate_left(1),
            None => {
                if self.streams.len() == MAX_COMPRESSORS {
                    self.streams.remove(0);
                }
                self.streams
                    .push((configuration, compressor(configuration)));
            }
        }
        let (_, stream) = self.streams.last_mut()?;
        let Some(written) = deflate(stream, message, &mut self.out) else {
            // A reset would not discard pending output. The next message would then contain it.
            self.streams.pop();
            return None;
        };
        stream.reset();
        (written < message.len()).then_some(written)
    }
}

/// Creates a compressor.
fn compressor(configuration: Configuration) -> zlib_rs::Deflate {
    let Configuration { level, window_bits } = configuration;
    zlib_rs::Deflate::new_with_config(DeflateConfig {
        level: level.into(),
        // Negative for a stream without a header.
        window_bits: -i32::from(window_bits),
        ..DeflateConfig::default()
    })
}

/// Compresses `message` to the start of `out`. Returns the length without the tail, or `None` if
/// the compressor has failed or is not done.
fn deflate(stream: &mut zlib_rs::Deflate, mut message: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    // Level 1 takes up to 9 bits for a byte, and each block has a header.
    let max = message.len() + message.len() / 4 + 256;
    let mut written = 0;
    loop {
        if written == max {
            return None;
        }
        if written == out.len() {
            let larger = (2 * out.len()).clamp(PART, max.max(PART));
            out.resize(larger, 0);
        }
        let end = out.len().min(max);
        let (taken, before) = (stream.total_in(), stream.total_out());
        let status = stream.compress(message, &mut out[written..end], DeflateFlush::SyncFlush);
        let taken = usize::try_from(stream.total_in() - taken).ok()?;
        written += usize::try_from(stream.total_out() - before).ok()?;
        message = &message[taken..];
        status.ok()?;
        if written < end {
            let length = written.checked_sub(TAIL.len())?;
            return (message.is_empty() && out[length..written] == TAIL).then_some(length);
        }
    }
}

/// Compresses a message and passes the result to `f` if it is shorter than the message.
pub(super) fn compress<R>(
    configuration: Configuration,
    message: &[u8],
    f: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    let compressed = COMPRESSORS.try_with(|compressors| {
        let mut compressors = compressors.borrow_mut();
        let length = compressors.compress(configuration, message);
        let result = length.map(|length| f(&compressors.out[..length]));
        if compressors.out.len() > MAX_KEPT {
            compressors.out = Vec::new();
        }
        result
    });
    // The pool is gone while its thread is destroyed.
    compressed.ok().flatten()
}

/// Inflater of one message, on loan from its thread.
pub(super) struct Inflater(Box<Inflation>);

/// An inflater with the state of its message.
pub(super) struct Inflation {
    stream: Inflate,
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

impl Inflater {
    /// Takes an unused inflater of the thread, or creates one.
    pub(super) fn take() -> Self {
        let pooled = INFLATERS.try_with(|pool| pool.borrow_mut().pop());
        pooled.ok().flatten().unwrap_or_else(|| {
            Self(Box::new(Inflation {
                stream: Inflate::new(false, 15),
                announced: 0,
                unmasked: 0,
                is_final: false,
            }))
        })
    }

    /// Returns the inflater to the thread.
    pub(super) fn put_back(mut self) {
        let _ = INFLATERS.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < MAX_INFLATERS {
                self.stream.reset(false);
                (self.announced, self.unmasked, self.is_final) = (0, 0, false);
                pool.push(self);
            }
        });
    }
}

impl Deref for Inflater {
    type Target = Inflation;

    fn deref(&self) -> &Inflation {
        &self.0
    }
}

impl DerefMut for Inflater {
    fn deref_mut(&mut self) -> &mut Inflation {
        &mut self.0
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Inflation {
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
                let (consumed, produced, status) = self.run(&input[taken..], &mut plain)?;
                taken += consumed;
                if produced > room - appended {
                    return Err(Failure::TooLong);
                }
                out.extend_from_slice(&plain[..produced]);
                appended += produced;
                if status == Status::StreamEnd {
                    // A message may continue after a final block.
                    self.stream.reset(false);
                    self.is_final = true;
                } else if consumed > 0 {
                    self.is_final = false;
                }
                let is_drained = produced < PART;
                if taken == input.len() && (is_drained || status == Status::StreamEnd) {
                    return Ok(Inflated {
                        taken,
                        appended,
                        has_more: false,
                    });
                }
                if consumed == 0 && produced == 0 && status != Status::StreamEnd {
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
            let (consumed, produced, status) = self.run(&END[taken..], &mut plain)?;
            taken += consumed;
            if produced > room - appended {
                return Err(Failure::TooLong);
            }
            out.extend_from_slice(&plain[..produced]);
            appended += produced;
            match status {
                Status::StreamEnd if taken == END.len() => return Ok(appended),
                Status::StreamEnd => return Err(Failure::Invalid),
                _ if produced < plain.len() => return Err(Failure::Invalid),
                _ => {}
            }
        }
    }

    /// Inflates once. Returns how many bytes were taken and how many were written.
    fn run(&mut self, input: &[u8], plain: &mut [u8]) -> Result<(usize, usize, Status), Failure> {
        let (taken, written) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, plain, InflateFlush::NoFlush);
        let status = status.map_err(|_| Failure::Invalid)?;
        // Both differences are at most the length of a slice.
        let taken = usize::try_from(self.stream.total_in() - taken).unwrap_or(usize::MAX);
        let written = usize::try_from(self.stream.total_out() - written).unwrap_or(usize::MAX);
        Ok((taken, written, status))
    }
}
