//! Compressors and decompressors of deflate, for streams, frames and messages of WebSocket.
//! This is the only module that uses zlib-rs. flate2 over it would take more memory, because it
//! cannot set `mem_level`, and another crate could select a C library for it.

mod frame;
mod pool;

use bytes::BytesMut;
use zlib_rs::{
    Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status, adler32::adler32,
};

pub(crate) use self::frame::{FrameError, deflate_frame, inflate_frame};
#[cfg(feature = "ws")]
pub(crate) use self::pool::{Pooled, with_deflater};
use super::level::Level;

/// Exponent of the window of streams. A context with this window and [`STREAM_MEM_LEVEL`]
/// allocates 165 KB instead of 380 KB.
const STREAM_WINDOW_BITS: u8 = 12;
const STREAM_MEM_LEVEL: i32 = 5;
/// zlib's default, for messages that are compressed alone. Each thread has few contexts for
/// them.
const MESSAGE_MEM_LEVEL: i32 = 8;

/// Last bytes of a sync flush: the length of an empty stored block and its complement.
pub(crate) const SYNC_MARKER: [u8; 4] = [0, 0, 0xff, 0xff];
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

/// Configuration of a compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Configuration {
    level: Level,
    /// Base-2 logarithm of the window in bytes, from 9 to 15.
    window_bits: u8,
    mem_level: i32,
}

impl Configuration {
    /// Configuration for one of many streams, with little memory.
    pub(super) const fn for_stream(level: Level) -> Self {
        Self {
            level,
            window_bits: STREAM_WINDOW_BITS,
            mem_level: STREAM_MEM_LEVEL,
        }
    }

    /// Configuration for messages of one session that refer to earlier ones, with little memory.
    #[cfg(feature = "ws")]
    pub(crate) const fn for_takeover(level: Level, window_bits: u8) -> Self {
        let stream = Self::for_stream(level);
        if window_bits < stream.window_bits {
            return Self {
                window_bits,
                ..stream
            };
        }
        stream
    }

    /// Configuration for messages that are compressed alone.
    pub(crate) const fn for_messages(level: Level, window_bits: u8) -> Self {
        Self {
            level,
            window_bits,
            mem_level: MESSAGE_MEM_LEVEL,
        }
    }
}

/// Compressor of raw deflate.
pub(crate) struct Deflater {
    deflate: Deflate,
    configuration: Configuration,
    /// `true` if the output has all of the input. zlib-rs does not reset an open block, so that the
    /// next output would be invalid or have pending bytes.
    is_flushed: bool,
}

impl Deflater {
    pub(crate) fn new(configuration: Configuration) -> Self {
        Self {
            deflate: create(configuration),
            configuration,
            is_flushed: true,
        }
    }

    pub(crate) const fn configuration(&self) -> Configuration {
        self.configuration
    }

    /// Forgets the earlier input. A compressor that was interrupted is replaced.
    pub(crate) fn reset(&mut self) {
        if self.is_flushed {
            self.deflate.reset();
        } else {
            self.deflate = create(self.configuration);
            self.is_flushed = true;
        }
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
    pub(crate) fn write_and_flush(&mut self, input: &[u8], out: &mut BytesMut) {
        self.write_until_done(input, out, DeflateFlush::SyncFlush);
    }

    /// Appends a complete stream with `input`, if nothing was written before.
    fn write_all(&mut self, input: &[u8], out: &mut BytesMut) {
        self.write_until_done(input, out, DeflateFlush::Finish);
    }

    fn write_until_done(&mut self, input: &[u8], out: &mut BytesMut, flush: DeflateFlush) {
        let mut rest = input;
        loop {
            let (consumed, is_full) = self.step(rest, out, flush);
            rest = &rest[consumed..];
            if rest.is_empty() && !is_full {
                self.is_flushed = true;
                return;
            }
        }
    }

    /// Returns how much of `input` was consumed, and `true` if the room was filled.
    fn step(&mut self, input: &[u8], out: &mut BytesMut, flush: DeflateFlush) -> (usize, bool) {
        self.is_flushed = false;
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

fn create(configuration: Configuration) -> Deflate {
    let Configuration {
        level,
        window_bits,
        mem_level,
    } = configuration;
    Deflate::new_with_config(DeflateConfig {
        level: level.into(),
        window_bits: -i32::from(window_bits), // negative: without a header
        mem_level,
        ..DeflateConfig::default()
    })
}

/// Result of [`Inflater::step`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) consumed: usize,
    pub(crate) produced: usize,
    /// The final block has ended.
    pub(crate) ended: bool,
    /// The bytes behind those that were inflated are invalid.
    pub(crate) corrupt: bool,
}

/// Returned if bytes are not in the format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corrupt;

/// Decompressor of raw deflate and of zlib.
pub(crate) struct Inflater(Inflate);

impl Inflater {
    /// Creates a decompressor. `zlib` is `true` if the input has zlib's header and checksum.
    pub(super) fn new(zlib: bool) -> Self {
        // Every window, because a smaller one saves nothing.
        Self(Inflate::new(zlib, 15))
    }

    /// Forgets the earlier input, which was raw deflate. The next one is raw deflate as well.
    pub(crate) fn reset(&mut self) {
        self.0.reset(false);
    }

    /// Decompresses a part of `input` to the beginning of `out`.
    pub(crate) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Corrupt> {
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

/// Work for a compressed byte, in plain bytes. A block without content can need tables whose
/// construction takes as long as 4 KiB of text.
const WORK_PER_COMPRESSED: usize = 8;

/// Returns the work of inflating for the cooperative budget, in bytes.
pub(crate) fn inflate_work(consumed: usize, produced: usize) -> usize {
    consumed.saturating_mul(WORK_PER_COMPRESSED).max(produced)
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

    /// zlib-rs keeps an open block over its reset.
    #[test]
    fn a_compressor_that_was_interrupted_has_no_earlier_input_after_its_reset() {
        let earlier: Vec<u8> = (0..100_000_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect();
        for level in 0..=9 {
            let configuration = Configuration::for_stream(Level::new(level));
            let mut deflater = Deflater::new(configuration);
            for length in [1, 1_000, earlier.len()] {
                deflater.write(&earlier[..length], &mut BytesMut::new());
                deflater.reset();
                let mut out = BytesMut::new();
                deflater.write_and_flush(b"hello hello", &mut out);
                assert_eq!(inflated(&out, false), b"hello hello", "level {level}");
                deflater.reset();
            }
        }
    }

    #[test]
    fn a_second_flush_without_input_appends_nothing() {
        for level in 0..=9 {
            let mut deflater = Deflater::new(Configuration::for_stream(Level::new(level)));
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
            let mut deflater = Deflater::new(Configuration::for_stream(level));
            let mut out = BytesMut::from(&zlib_header(level)[..]);
            let text = vec![b'x'; 200_000];
            deflater.write(&text, &mut out);
            deflater.write_and_flush(&[], &mut out);
            out.extend_from_slice(&FINAL_BLOCK);
            out.extend_from_slice(&checksum(ADLER_START, &text).to_be_bytes());
            assert!(inflated(&out, true) == text, "{level:?}");
        }
    }
}
