//! Snappy's framing format, over the raw format of the crate `snap`.
//!
//! The encoder of `snap` for this format remembers one stream, so it cannot be pooled.

use std::cell::Cell;

use bytes::{Buf, BufMut, BytesMut};
use snap::raw::{self, Decoder, Encoder};

use super::{
    error::InflateError,
    zlib::{Corrupt, append},
};

/// First chunk of every stream.
pub(super) const STREAM_IDENTIFIER: [u8; 10] = *b"\xff\x06\x00\x00sNaPpY";

const COMPRESSED: u8 = 0x00;
const PLAIN: u8 = 0x01;
/// First type of the chunks that a decoder must skip.
const FIRST_SKIPPABLE: u8 = 0x80;
const IDENTIFIER: u8 = 0xff;

/// Length of a chunk's type and length.
const HEADER: usize = 4;
const CHECKSUM: usize = 4;
/// Maximum plain bytes of a chunk.
pub(super) const MAX_PLAIN: usize = 64 * 1024;
/// Maximum compressed bytes of a chunk: `max_compress_len` of [`MAX_PLAIN`].
const MAX_COMPRESSED: usize = 76_490;
/// Maximum bytes of a chunk that must be complete before it can be decoded.
pub(super) const MAX_CHUNK: usize = HEADER + CHECKSUM + MAX_COMPRESSED;

thread_local! {
    static ENCODER: Cell<Option<Box<Encoder>>> = const { Cell::new(None) };
}

/// Appends a chunk with `plain`, which has at most [`MAX_PLAIN`] bytes.
pub(super) fn write_chunk(plain: &[u8], out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER);
    out.put_u32_le(masked_checksum(plain));
    // Taken out for the time of the call. While a thread ends, its thread-local is gone.
    let pooled = ENCODER.try_with(Cell::take).ok().flatten();
    let mut encoder = pooled.unwrap_or_else(|| Box::new(Encoder::new()));
    let body = out.len();
    let compressed = append(out, raw::max_compress_len(plain.len()), |room| {
        // It fails only if the room is too small.
        match encoder.compress(plain, room) {
            Ok(length) => (length, true),
            Err(_) => (0, false),
        }
    });
    let _ = ENCODER.try_with(|slot| slot.set(Some(encoder)));
    let mut kind = COMPRESSED;
    // Other encoders have the same limit: below it, decoding costs more than it saves.
    if !compressed || out.len() - body >= plain.len() - plain.len() / 8 {
        kind = PLAIN;
        out.truncate(body);
        out.put_slice(plain);
    }
    let length = out.len() - start - HEADER;
    out[start] = kind;
    out[start + 1..start + HEADER].copy_from_slice(&length.to_le_bytes()[..3]);
}

fn masked_checksum(plain: &[u8]) -> u32 {
    crate::crc32c::crc32c(&[plain])
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// Decoder of a stream. It keeps no bytes between chunks.
#[derive(Debug, Default)]
pub(super) struct ChunkDecoder {
    /// The stream's identifier was received.
    identified: bool,
    /// Number of bytes of a chunk that are still to be skipped.
    skip: u32,
    /// Plain bytes of a chunk that had no room.
    rest: BytesMut,
}

/// Result of [`ChunkDecoder::step`].
pub(super) enum Chunk {
    /// Input was consumed, or bytes were appended.
    Progress,
    /// More input is required.
    Incomplete,
}

impl ChunkDecoder {
    /// Returns `true` if the input may end here.
    pub(super) fn is_complete(&self) -> bool {
        self.skip == 0
    }

    /// Returns `true` if bytes of a chunk wait for room.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Decodes the next chunk of `input` to `out`, up to `room` bytes.
    pub(super) fn step(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        room: usize,
    ) -> Result<Chunk, InflateError> {
        if self.has_rest() {
            self.take_rest(out, room);
            return Ok(Chunk::Progress);
        }
        if self.skip > 0 {
            let skipped = input.len().min(self.skip as usize);
            input.advance(skipped);
            self.skip -= u32::try_from(skipped).unwrap_or(u32::MAX);
            return Ok(progress_if(skipped > 0));
        }
        let Some(&[kind, a, b, c]) = input.first_chunk() else {
            return Ok(Chunk::Incomplete);
        };
        let length = u32::from_le_bytes([a, b, c, 0]);
        let size = length as usize;
        match kind {
            IDENTIFIER if size != STREAM_IDENTIFIER.len() - HEADER => return Err(corrupt()),
            _ if kind != IDENTIFIER && !self.identified => return Err(corrupt()),
            COMPRESSED | PLAIN if size < CHECKSUM => return Err(corrupt()),
            COMPRESSED if size > CHECKSUM + MAX_COMPRESSED => return Err(too_large()),
            PLAIN if size > CHECKSUM + MAX_PLAIN => return Err(too_large()),
            FIRST_SKIPPABLE..IDENTIFIER => {
                input.advance(HEADER);
                self.skip = length;
                return Ok(Chunk::Progress);
            }
            COMPRESSED | PLAIN | IDENTIFIER => {}
            _ => return Err(corrupt()),
        }
        let Some(body) = input.get(HEADER..HEADER + size) else {
            return Ok(Chunk::Incomplete);
        };
        if kind == IDENTIFIER {
            if input[..HEADER + size] != STREAM_IDENTIFIER {
                return Err(corrupt());
            }
            self.identified = true;
            input.advance(HEADER + size);
            return Ok(Chunk::Progress);
        }
        let (checksum, body) = body.split_at(CHECKSUM);
        self.decode(kind, body, checksum, out, room)?;
        input.advance(HEADER + size);
        Ok(Chunk::Progress)
    }

    fn decode(
        &mut self,
        kind: u8,
        body: &[u8],
        checksum: &[u8],
        out: &mut BytesMut,
        room: usize,
    ) -> Result<(), InflateError> {
        let plain = if kind == PLAIN {
            body.len()
        } else {
            raw::decompress_len(body).map_err(|_| corrupt())?
        };
        if plain > MAX_PLAIN {
            return Err(too_large());
        }
        let fits = plain <= room;
        if !fits && self.rest.capacity() == 0 {
            crate::buffer_pool::take_into(&mut self.rest);
        }
        let to = if fits { &mut *out } else { &mut self.rest };
        let start = to.len();
        if kind == PLAIN {
            to.extend_from_slice(body);
        } else {
            append(to, plain, |room| {
                match Decoder::new().decompress(body, room) {
                    Ok(length) => (length, Ok(())),
                    Err(_) => (0, Err(Corrupt)),
                }
            })
            .map_err(|Corrupt| corrupt())?;
        }
        if masked_checksum(&to[start..]).to_le_bytes() != checksum {
            to.truncate(start);
            return Err(corrupt());
        }
        if !fits {
            self.take_rest(out, room);
        }
        Ok(())
    }

    fn take_rest(&mut self, out: &mut BytesMut, room: usize) {
        let taken = self.rest.len().min(room);
        out.extend_from_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        if self.rest.is_empty() {
            crate::buffer_pool::put_back(&mut self.rest);
        }
    }
}

const fn progress_if(progress: bool) -> Chunk {
    if progress {
        Chunk::Progress
    } else {
        Chunk::Incomplete
    }
}

const fn corrupt() -> InflateError {
    InflateError::Corrupt { format: "snappy" }
}

const fn too_large() -> InflateError {
    InflateError::TooLarge { format: "snappy" }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn stream(plain: &[&[u8]]) -> BytesMut {
        let mut out = BytesMut::from(&STREAM_IDENTIFIER[..]);
        for chunk in plain {
            write_chunk(chunk, &mut out);
        }
        out
    }

    fn decoded(mut input: BytesMut, room: usize) -> Result<BytesMut, InflateError> {
        let (mut decoder, mut out) = (ChunkDecoder::default(), BytesMut::new());
        let mut before = 0;
        while let Chunk::Progress = decoder.step(&mut input, &mut out, room)? {
            assert!(out.len() - before <= room);
            before = out.len();
        }
        assert!(input.is_empty() && decoder.is_complete());
        Ok(out)
    }

    #[test]
    fn snap_decodes_sent_chunks_and_its_chunks_are_decoded() {
        let text = b"a chunk of text, a chunk of text".repeat(2_000);
        let random: Vec<u8> = (0..65_536_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect();
        let sent = stream(&[&text[..60_000], b"x", &random]);
        let plain = [&text[..60_000], b"x", &random].concat();
        let mut theirs = Vec::new();
        snap::read::FrameDecoder::new(&sent[..])
            .read_to_end(&mut theirs)
            .unwrap();
        assert!(theirs == plain);

        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(&plain).unwrap();
        let theirs = encoder.into_inner().unwrap();
        for room in [1_000, 1 << 20] {
            assert!(decoded(BytesMut::from(&theirs[..]), room).unwrap() == plain);
        }
    }

    #[test]
    fn skippable_chunks_and_padding_are_skipped_without_being_held() {
        let mut sent = stream(&[b"one"]);
        for kind in [0x80, 0xfd, 0xfe] {
            sent.put_slice(&[kind, 0xff, 0xff, 0xff]);
            sent.put_bytes(7, 0xff_ffff);
        }
        let two = stream(&[b"two"]);
        sent.extend_from_slice(&two);
        assert_eq!(decoded(sent, 100).unwrap(), "onetwo");
    }

    #[test]
    fn invalid_chunks_are_refused_before_memory_is_allocated() {
        let chunk = |kind: u8, length: u32, body: &[u8]| {
            let mut sent = BytesMut::from(&STREAM_IDENTIFIER[..]);
            sent.put_u8(kind);
            sent.put_slice(&length.to_le_bytes()[..3]);
            sent.put_slice(body);
            sent
        };
        // a raw block that announces 4 GiB - 1
        let huge = [&[0; 4][..], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        for (sent, expected) in [
            (BytesMut::from(&b"\0\0\0\0"[..]), corrupt()),
            (BytesMut::from(&b"\xff\x06\0\0sNaPpX"[..]), corrupt()),
            (BytesMut::from(&b"\xff\x07\0\0sNaPpYY"[..]), corrupt()),
            (chunk(0x02, 5, b"12345"), corrupt()),
            (chunk(0x7f, 5, b"12345"), corrupt()),
            (chunk(0x00, 3, b"123"), corrupt()),
            (chunk(0x00, 76_495, b""), too_large()),
            (chunk(0x01, 65_541, b""), too_large()),
            (chunk(0x00, 9, &huge), too_large()),
            (chunk(0x01, 5, b"\0\0\0\0x"), corrupt()),
        ] {
            assert_eq!(decoded(sent, 100).unwrap_err(), expected);
        }
    }
}
