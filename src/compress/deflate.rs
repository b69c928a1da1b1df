//! Compressors and decompressors of deflate, over zlib-rs. flate2 would take more memory,
//! because it cannot set `mem_level`, and another crate could select a C library for it.

use std::cell::Cell;

use bytes::BytesMut;
use zlib_rs::{
    Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status, adler32::adler32,
};

use super::level::Level;

/// Exponent of the window of streams. A context with this window and [`STREAM_MEM_LEVEL`]
/// allocates 165 KB instead of 380 KB.
const STREAM_WINDOW_BITS: u8 = 12;
const STREAM_MEM_LEVEL: i32 = 5;
/// Exponent of the window of a single frame. Each thread has one context for each level.
const FRAME_WINDOW_BITS: u8 = 15;
const FRAME_MEM_LEVEL: i32 = 8;

/// Last bytes of a sync flush: the length of an empty stored block and its complement.
pub(super) const SYNC_MARKER: [u8; 4] = [0, 0, 0xff, 0xff];
/// Final block without content, for a stream that was flushed.
pub(super) const FINAL_BLOCK: [u8; 2] = [3, 0];
/// Checksum of no bytes.
pub(super) const ADLER_START: u32 = 1;

/// Minimum room for compressed bytes. A flush must have more than six.
const MIN_ROOM: usize = 64;
/// Maximum room for compressed bytes in one step. It is filled with zeros first.
const MAX_ROOM: usize = 16 * 1024;

/// Calls `f` with `room` zeros at the end of `out`. Keeps as many bytes as `f` returns.
pub(super) fn append<R>(
    out: &mut BytesMut,
    room: usize,
    f: impl FnOnce(&mut [u8]) -> (usize, R),
) -> R {
    let start = out.len();
    out.resize(start + room, 0);
    let (written, result) = f(&mut out[start..]);
    out.truncate(start + written);
    result
}

/// Compressor of raw deflate.
pub(crate) struct Deflater {
    deflate: Deflate,
    level: Level,
}

impl Deflater {
    /// Creates a compressor for one of many streams, with little memory.
    pub(super) fn for_stream(level: Level) -> Self {
        Self::new(level, STREAM_WINDOW_BITS, STREAM_MEM_LEVEL)
    }

    fn new(level: Level, window_bits: u8, mem_level: i32) -> Self {
        let config = DeflateConfig {
            level: level.into(),
            window_bits: -i32::from(window_bits), // negative: without a header
            mem_level,
            ..DeflateConfig::default()
        };
        Self {
            deflate: Deflate::new_with_config(config),
            level,
        }
    }

    pub(super) const fn level(&self) -> Level {
        self.level
    }

    /// Forgets the earlier input.
    pub(super) fn reset(&mut self) {
        self.deflate.reset();
    }

    /// Appends the compressed `input` to `out`, except for a part that the next flush appends.
    pub(super) fn write(&mut self, mut input: &[u8], out: &mut BytesMut) {
        while !input.is_empty() {
            let (consumed, _) = self.step(input, out, DeflateFlush::NoFlush);
            input = &input[consumed..];
        }
    }

    /// Appends the compressed `input` and all that was written before, so that a decompressor can
    /// return the whole.
    pub(super) fn write_and_flush(&mut self, input: &[u8], out: &mut BytesMut) {
        self.write_until_done(input, out, DeflateFlush::SyncFlush);
    }

    /// Appends a complete stream with `input`.
    fn write_all(&mut self, input: &[u8], out: &mut BytesMut) {
        self.deflate.reset();
        self.write_until_done(input, out, DeflateFlush::Finish);
    }

    fn write_until_done(&mut self, input: &[u8], out: &mut BytesMut, flush: DeflateFlush) {
        let mut rest = input;
        loop {
            let (consumed, is_full) = self.step(rest, out, flush);
            rest = &rest[consumed..];
            if rest.is_empty() && !is_full {
                return;
            }
        }
    }

    /// Returns how much of `input` was consumed, and `true` if the room was filled.
    fn step(&mut self, input: &[u8], out: &mut BytesMut, flush: DeflateFlush) -> (usize, bool) {
        let deflate = &mut self.deflate;
        let room = (input.len() + MIN_ROOM).min(MAX_ROOM);
        append(out, room, |room| {
            let (before_in, before_out) = (deflate.total_in(), deflate.total_out());
            // It fails only for a wrong configuration, and without room or input.
            let _ = deflate.compress(input, room, flush);
            let written = difference(deflate.total_out(), before_out);
            let consumed = difference(deflate.total_in(), before_in);
            (written, (consumed, written == room.len()))
        })
    }
}

/// Result of [`Inflater::step`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
    /// The final block has ended.
    pub(super) ended: bool,
    /// The bytes behind those that were inflated are invalid.
    pub(super) corrupt: bool,
}

/// Returned if bytes are not in the format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corrupt;

/// Decompressor of raw deflate and of zlib.
pub(super) struct Inflater(Inflate);

impl Inflater {
    /// Creates a decompressor. `zlib` is `true` if the input has zlib's header and checksum.
    pub(super) fn new(zlib: bool) -> Self {
        // Every window, because a smaller one saves nothing.
        Self(Inflate::new(zlib, 15))
    }

    /// Decompresses a part of `input` to the beginning of `out`.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Corrupt> {
        let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, out, InflateFlush::NoFlush);
        let produced = difference(self.0.total_out(), before_out);
        if status.is_err() && produced == 0 {
            return Err(Corrupt);
        }
        Ok(Step {
            ended: status == Ok(Status::StreamEnd),
            corrupt: status.is_err(),
            consumed: difference(self.0.total_in(), before_in),
            produced,
        })
    }
}

/// Returns the increase of a total within one step, which a slice bounds.
fn difference(after: u64, before: u64) -> usize {
    usize::try_from(after - before).unwrap_or(usize::MAX)
}

/// Continues the checksum of a zlib stream.
pub(super) fn checksum(before: u32, input: &[u8]) -> u32 {
    adler32(before, input)
}

/// Returns the header of a zlib stream with the window of streams.
pub(super) fn zlib_header(level: Level) -> [u8; 2] {
    const DEFLATE: u16 = 8;
    let window = u16::from(STREAM_WINDOW_BITS - 8);
    let level = match i32::from(level) {
        ..=1 => 0,
        2..=5 => 1,
        6 => 2,
        _ => 3,
    };
    let header = window << 12 | DEFLATE << 8 | level << 6;
    // The lowest five bits make it a multiple of 31.
    (header + 31 - header % 31).to_be_bytes()
}

thread_local! {
    /// Compressor for single frames, of the level that was used last.
    static FRAME_DEFLATER: Cell<Option<Box<Deflater>>> = const { Cell::new(None) };
    /// Decompressor for single frames.
    static FRAME_INFLATER: Cell<Option<Box<Inflater>>> = const { Cell::new(None) };
}

/// Appends `input` to `out` as a complete stream of raw deflate.
pub(crate) fn deflate_frame(level: Level, input: &[u8], out: &mut BytesMut) {
    // Taken out for the time of the call. While a thread ends, its thread-local is gone.
    let pooled = FRAME_DEFLATER.try_with(Cell::take).ok().flatten();
    let mut deflater = pooled
        .filter(|deflater| deflater.level == level)
        .unwrap_or_else(|| Box::new(Deflater::new(level, FRAME_WINDOW_BITS, FRAME_MEM_LEVEL)));
    deflater.write_all(input, out);
    let _ = FRAME_DEFLATER.try_with(|slot| slot.set(Some(deflater)));
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
    let pooled = FRAME_INFLATER.try_with(Cell::take).ok().flatten();
    let mut inflater = pooled.unwrap_or_else(|| Box::new(Inflater::new(false)));
    inflater.0.reset(false);
    let result = inflate_all(&mut inflater, input, max, out);
    let _ = FRAME_INFLATER.try_with(|slot| slot.set(Some(inflater)));
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

    fn inflated(compressed: &[u8], zlib: bool) -> Vec<u8> {
        let mut out = vec![0; 1 << 20];
        let step = Inflater::new(zlib).step(compressed, &mut out).unwrap();
        assert_eq!(step.consumed, compressed.len());
        out.truncate(step.produced);
        out
    }

    #[test]
    fn a_second_flush_without_input_appends_nothing() {
        for level in 0..=9 {
            let mut deflater = Deflater::for_stream(Level::new(level));
            let mut out = BytesMut::new();
            deflater.write(b"hel", &mut out);
            deflater.write_and_flush(b"lo", &mut out);
            assert!(out.ends_with(&SYNC_MARKER));
            let once = out.clone();
            deflater.write_and_flush(&[], &mut out);
            assert_eq!(out, once, "level {level}");
        }
    }

    #[test]
    fn a_flushed_stream_with_a_header_and_a_trailer_is_zlib() {
        for level in 0..=9 {
            let level = Level::new(level);
            let mut deflater = Deflater::for_stream(level);
            let mut out = BytesMut::from(&zlib_header(level)[..]);
            let text = vec![b'x'; 200_000];
            deflater.write(&text, &mut out);
            deflater.write_and_flush(&[], &mut out);
            out.extend_from_slice(&FINAL_BLOCK);
            out.extend_from_slice(&checksum(ADLER_START, &text).to_be_bytes());
            assert!(inflated(&out, true) == text, "{level:?}");
        }
    }

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
