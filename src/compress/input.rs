//! Incoming direction: keeps compressed bytes that have arrived and inflates them.

use std::io;

use bytes::{Buf, BytesMut};
use tower::BoxError;

use super::{
    error::{InflateBomb, InflateError},
    settings::{Format, Settings},
    snappy::{self, Chunk, ChunkDecoder},
    zlib::{Corrupt, Inflater, SYNC_MARKER, Step, append},
};
use crate::buffer_pool;

/// Maximum plain bytes of one step.
const STEP: usize = 16 * 1024;
/// Plain bytes for which a step has room in any case.
const MIN_STEP: usize = 256;
/// Maximum compressed bytes that are held.
const MAX_INPUT: usize = 64 * 1024;
/// Maximum bytes that are moved to a small buffer before a wait.
const SMALL: usize = 4 * 1024;

/// State of the incoming direction.
pub(super) struct Input {
    /// Compressed bytes that are not inflated.
    pub(super) buf: BytesMut,
    inflate: Decoder,
    plain: u64,
    compressed: u64,
    /// The last four bytes that were inflated.
    tail: [u8; 4],
    /// The last step has filled its room, so that the decompressor may hold more.
    has_more: bool,
    /// At the end of the stream, or of a frame.
    ended: bool,
    /// The last step has found invalid bytes behind those that it has inflated.
    corrupt: bool,
    /// The buffer has the beginning of a chunk.
    incomplete: bool,
}

enum Decoder {
    Deflate(Inflater),
    Snappy(ChunkDecoder),
    #[cfg(feature = "zstd")]
    Zstd(super::zstd::Decompressor),
}

/// Result of [`Input::step`].
pub(super) enum Inflated {
    /// This many compressed bytes were consumed, and this many plain bytes were appended.
    Progress(usize, usize),
    /// More input is required.
    Nothing,
}

impl Input {
    pub(super) fn new(format: Format) -> io::Result<Self> {
        Ok(Self {
            buf: BytesMut::new(),
            inflate: match format {
                Format::Deflate(_) => Decoder::Deflate(Inflater::new(false)),
                Format::Zlib(_) => Decoder::Deflate(Inflater::new(true)),
                Format::Snappy => Decoder::Snappy(ChunkDecoder::default()),
                #[cfg(feature = "zstd")]
                Format::Zstd(_) => Decoder::Zstd(super::zstd::Decompressor::new()?),
            },
            plain: 0,
            compressed: 0,
            tail: [0; 4],
            has_more: false,
            ended: false,
            corrupt: false,
            incomplete: false,
        })
    }

    /// Makes room for a read. Returns the maximum number of bytes to read.
    pub(super) fn make_room(&mut self) -> usize {
        let max = match self.inflate {
            // A chunk is decoded whole.
            Decoder::Snappy(_) => snappy::MAX_CHUNK,
            _ => MAX_INPUT,
        };
        let room = max - self.buf.len();
        if self.buf.capacity() == 0 {
            buffer_pool::take_into(&mut self.buf);
        } else if self.buf.capacity() - self.buf.len() < SMALL.min(room)
            && !self.buf.try_reclaim(SMALL.min(room))
        {
            let mut larger = BytesMut::with_capacity((2 * self.buf.len()).clamp(SMALL, max));
            larger.extend_from_slice(&self.buf);
            buffer_pool::put(std::mem::replace(&mut self.buf, larger));
        }
        room.min(self.buf.capacity() - self.buf.len())
    }

    /// Reduces the buffer before the session waits.
    pub(super) fn shrink(&mut self) {
        if self.buf.is_empty() {
            if self.buf.capacity() > 0 {
                buffer_pool::put_back(&mut self.buf);
            }
        } else if self.buf.len() <= SMALL && self.buf.capacity() > 2 * SMALL {
            let mut small = BytesMut::with_capacity(self.buf.len());
            small.extend_from_slice(&self.buf);
            buffer_pool::put(std::mem::replace(&mut self.buf, small));
        }
    }

    /// Returns `true` if a part of a block is held, which the read timeout should limit.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Returns `true` if the peer may end its direction here.
    pub(super) fn may_end(&self, format: Format) -> bool {
        let is_complete = self.buf.is_empty() && !self.has_more && !self.corrupt;
        is_complete
            && match &self.inflate {
                _ if self.compressed == 0 => true,
                Decoder::Deflate(_) => self.ended || self.tail == SYNC_MARKER,
                Decoder::Snappy(decoder) => decoder.is_complete(),
                #[cfg(feature = "zstd")]
                Decoder::Zstd(_) => self.ended,
            }
            // a header alone is not a stream
            && !(matches!(format, Format::Zlib(_)) && (1..=2).contains(&self.compressed))
    }

    /// Inflates a part of the buffer to `out`, at most `room` bytes.
    pub(super) fn step(
        &mut self,
        settings: &Settings,
        out: &mut BytesMut,
        room: usize,
    ) -> Result<Inflated, BoxError> {
        if self.corrupt {
            return Err(corrupt(settings.format).into());
        }
        let before = (self.buf.len(), out.len());
        if let Decoder::Snappy(decoder) = &mut self.inflate {
            if self.buf.is_empty() && !decoder.has_rest() {
                return Ok(Inflated::Nothing);
            }
            let chunk = decoder.step(&mut self.buf, out, room)?;
            self.incomplete = matches!(chunk, Chunk::Incomplete);
            if self.incomplete {
                return Ok(Inflated::Nothing);
            }
        } else if self.buf.is_empty() && !self.has_more {
            return Ok(Inflated::Nothing);
        } else {
            // The room is filled with zeros first, which costs more than a short message.
            let likely = if self.has_more {
                STEP
            } else {
                (8 * self.buf.len()).clamp(MIN_STEP, STEP)
            };
            let room = room.min(likely);
            let step = self.inflate(settings.format, out, room)?;
            self.record_tail(step.consumed);
            self.buf.advance(step.consumed);
            self.ended = step.ended;
            self.has_more = step.produced == room && !step.ended;
            self.corrupt = step.corrupt;
            if step.consumed == 0 && step.produced == 0 {
                // Every decompressor consumes its input as long as there is room.
                if self.buf.is_empty() {
                    return Ok(Inflated::Nothing);
                }
                return Err(corrupt(settings.format).into());
            }
        }
        let (consumed, produced) = (before.0 - self.buf.len(), out.len() - before.1);
        self.compressed += consumed as u64;
        self.plain += produced as u64;
        let limit = settings.ratio.saturating_mul(self.compressed);
        if self.plain > limit.saturating_add(settings.free) {
            out.truncate(before.1);
            return Err(InflateBomb {
                plain: self.plain,
                compressed: self.compressed,
            }
            .into());
        }
        Ok(Inflated::Progress(consumed, produced))
    }

    fn inflate(
        &mut self,
        format: Format,
        out: &mut BytesMut,
        room: usize,
    ) -> Result<Step, InflateError> {
        let Self {
            buf,
            inflate,
            ended,
            ..
        } = self;
        append(out, room, |room| {
            let step = match inflate {
                Decoder::Deflate(_) if *ended => Err(InflateError::AfterEnd),
                Decoder::Deflate(inflater) => {
                    inflater.step(buf, room).map_err(|Corrupt| corrupt(format))
                }
                Decoder::Snappy(_) => Err(corrupt(format)),
                #[cfg(feature = "zstd")]
                Decoder::Zstd(decompressor) => decompressor.step(buf, room),
            };
            match step {
                Ok(step) => (step.produced, Ok(step)),
                Err(error) => (0, Err(error)),
            }
        })
    }

    /// Keeps the last four of the bytes that were inflated.
    fn record_tail(&mut self, consumed: usize) {
        let consumed = &self.buf[..consumed];
        match consumed.last_chunk() {
            Some(tail) => self.tail = *tail,
            None => {
                self.tail.rotate_left(consumed.len());
                let kept = self.tail.len() - consumed.len();
                self.tail[kept..].copy_from_slice(consumed);
            }
        }
    }
}

const fn corrupt(format: Format) -> InflateError {
    InflateError::Corrupt {
        format: format.name(),
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.buf.capacity() > 0 {
            buffer_pool::put_back(&mut self.buf);
        }
    }
}
