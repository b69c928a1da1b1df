//! zstd, over the C library.

use std::io;

use bytes::BytesMut;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, Operation, OutBuffer};

use super::{
    error::InflateError,
    zlib::{Step, append},
};

/// Exponent of the window of sent frames: 128 KiB. A context then needs 1 MB at the default
/// level.
const WINDOW_LOG: u32 = 17;
/// Last level whose tables fit the window without a setting.
const LAST_SMALL_LEVEL: i32 = 4;
/// Exponent of the maximum window of received frames: 1 MiB.
const MAX_WINDOW_LOG: u32 = 20;
/// Last block of a frame that was flushed, without content.
pub(super) const LAST_BLOCK: [u8; 3] = [1, 0, 0];
/// Room for compressed bytes in one step.
const MAX_ROOM: usize = 16 * 1024;

/// Compressor of frames.
pub(crate) struct Compressor {
    encoder: Encoder<'static>,
    level: i32,
}

impl Compressor {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        let mut encoder = Encoder::new(level)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        if level > LAST_SMALL_LEVEL {
            // The defaults of these levels are for windows of megabytes and take 10 MB.
            encoder.set_parameter(CParameter::HashLog(WINDOW_LOG))?;
            encoder.set_parameter(CParameter::ChainLog(WINDOW_LOG))?;
        }
        Ok(Self { encoder, level })
    }

    pub(super) const fn level(&self) -> i32 {
        self.level
    }

    /// Begins a new frame.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.encoder.reinit()
    }

    /// Appends the compressed `input`, except for a part that the next flush appends.
    pub(super) fn write(&mut self, mut input: &[u8], out: &mut BytesMut) -> io::Result<()> {
        loop {
            let room = (input.len() / 2 + 64).min(MAX_ROOM);
            let status = append(out, room, |room| {
                match self.encoder.run_on_buffers(input, room) {
                    Ok(status) => (status.bytes_written, Ok(status)),
                    Err(error) => (0, Err(error)),
                }
            })?;
            input = &input[status.bytes_read..];
            // The encoder may have consumed all and still hold a part of a block.
            if input.is_empty() && status.bytes_written < room {
                return Ok(());
            }
        }
    }

    /// Appends the rest of the input, so that a decompressor can return the whole.
    pub(super) fn flush(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let mut room = 1024;
        loop {
            let rest = append(out, room, |room| {
                let mut buffer = OutBuffer::around(room);
                let rest = self.encoder.flush(&mut buffer);
                (buffer.pos(), rest)
            })?;
            if rest == 0 {
                return Ok(());
            }
            room = rest.clamp(64, MAX_ROOM);
        }
    }
}

/// Bytes from which the length of a frame's header is known.
const FRAME_START: usize = 5;
/// The decoder asks for a block together with the header of the next one.
const BLOCK_HEADER: usize = 3;

/// Decompressor of frames.
pub(super) struct Decompressor {
    decoder: Decoder<'static>,
    /// Number of bytes up to the end of the current block. With more, the decoder would discard
    /// valid blocks before invalid bytes.
    next: usize,
}

impl Decompressor {
    pub(super) fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            decoder,
            next: FRAME_START,
        })
    }

    /// Decompresses a part of `input` to the beginning of `out`. `ended` is `true` at the end of a
    /// frame.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        let input = &input[..input.len().min(self.next)];
        let status = self.decoder.run_on_buffers(input, out);
        let status = status.map_err(|error| {
            // The only error about memory that a peer can cause.
            if error.to_string().contains("memory") {
                InflateError::TooLarge { format: "zstd" }
            } else {
                InflateError::Corrupt { format: "zstd" }
            }
        })?;
        self.next = match status.remaining {
            0 => FRAME_START,
            next if next > BLOCK_HEADER => next - BLOCK_HEADER,
            next => next,
        };
        Ok(Step {
            consumed: status.bytes_read,
            produced: status.bytes_written,
            ended: status.remaining == 0,
            corrupt: false,
        })
    }
}
