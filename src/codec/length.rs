//! Frames whose header says how long they are.
//!
//! In a stack it is given to `CodecLayer`. Scope: session; it keeps no state between calls, so a frame that was cut off
//! cannot disturb the next one on a message transport.
//!
//! By default the header is the payload's length in four bytes, the most significant first. The settings describe most
//! headers that have a length somewhere:
//!
//! ```text
//! |  ...           |  length field  |  ...  |  payload                  |
//! |- field offset -|- field width  -|       |- field plus adjustment   -|
//! |- skip                                  -|
//! ```
//!
//! ```
//! use getty::codec::{Bytes, BytesMut, Decoder, Encoder, FieldWidth, Length, LengthError};
//!
//! # fn main() -> Result<(), LengthError> {
//! let mut codec = Length::new();
//! let mut buffer = BytesMut::new();
//! codec.encode(Bytes::from("hello"), &mut buffer)?;
//! assert_eq!(buffer, b"\0\0\0\x05hello"[..]);
//! assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
//! assert_eq!(codec.decode(&mut buffer)?, None);
//!
//! // a type byte, then two bytes of length that count the whole frame; the payload keeps its header
//! let mut codec = Length::new()
//!     .with_field_offset(1)
//!     .with_field_width(FieldWidth::U16)
//!     .with_skip(0)
//!     .with_max_length(1024);
//! buffer.extend_from_slice(b"T\x00\x08hello");
//! assert_eq!(codec.decode(&mut buffer)?.unwrap(), b"T\x00\x08hello"[..]);
//!
//! // a header is enough to refuse a frame
//! buffer.extend_from_slice(b"T\xff\xff");
//! let refused = codec.decode(&mut buffer).unwrap_err();
//! assert_eq!(refused.to_string(), "frame of 65535 bytes, where 1024 are allowed");
//! # Ok(())
//! # }
//! ```

mod error;
mod settings;

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use self::{error::LengthError, settings::FieldWidth};
use super::{Decoder, Encoder};

/// The header of a codec without settings: a big-endian `u32`, and nothing else.
const PLAIN_HEADER: usize = size_of::<u32>();

/// Frames whose header says how long they are; see the [module](self).
///
/// What it decodes shares the read buffer's memory; there is no copy, and no allocation a message. Therefore a payload
/// that is kept keeps the whole block that it arrived in alive. To keep a small piece for long, keep a
/// [`Bytes::copy_from_slice`] of it.
///
/// The maximum is checked as soon as the header is there. If the frame is allowed and has not all arrived, room for
/// what is missing is reserved in the buffer at once, so four bytes of a peer's can cost as much memory as the maximum
/// says.
///
/// # Sending
///
/// A message is what the decoder would have made of the frame. The encoder makes the frame again: it puts as many zero
/// bytes in front as the decoder skips, and writes the length field, over the message's own bytes where
/// [the skip](Self::with_skip) leaves the field in the payload.
///
/// # Errors
///
/// After an error in a received header the rest of the stream means nothing; the buffer is left as it was. A message
/// that cannot be sent leaves no bytes behind.
#[derive(Clone, Debug)]
pub struct Length {
    max: usize,
    adjustment: i32,
    offset: u16,
    skip: Option<u16>,
    width: FieldWidth,
    little_endian: bool,
    /// All but `max` as `new` has it: the header can be read at a glance.
    plain: bool,
}

impl Length {
    const fn skip(&self) -> usize {
        match self.skip {
            Some(bytes) => bytes as usize,
            None => self.field().end,
        }
    }

    /// Where in a frame the length field stands.
    const fn field(&self) -> Range<usize> {
        let start = self.offset as usize;
        start..start + self.width.bytes()
    }

    /// Where in the buffer the payload of its first frame will be; nothing as long as the length field is incomplete.
    #[inline(always)]
    pub(super) fn payload(&self, src: &[u8]) -> Result<Option<Range<usize>>, LengthError> {
        if !self.plain {
            return self.payload_by_settings(src);
        }
        let Some(field) = src.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*field);
        if u64::from(length) > self.max as u64 {
            return Err(self.too_long(u64::from(length)));
        }
        Ok(Some(PLAIN_HEADER..PLAIN_HEADER + length as usize))
    }

    fn payload_by_settings(&self, src: &[u8]) -> Result<Option<Range<usize>>, LengthError> {
        let Some(bytes) = src.get(self.field()) else {
            return Ok(None);
        };
        let append = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let field = if self.little_endian {
            bytes.iter().rev().fold(0, append)
        } else {
            bytes.iter().fold(0, append)
        };
        let Some(length) = field.checked_add_signed(self.adjustment.into()) else {
            return Err(LengthError::OutOfRange {
                field,
                adjustment: self.adjustment,
            });
        };
        match usize::try_from(length) {
            Ok(length) if length <= self.max => {
                let skip = self.skip();
                self.check_header(skip + length)?;
                Ok(Some(skip..skip + length))
            }
            _ => Err(self.too_long(length)),
        }
    }

    /// A frame that ended before its own length field does would leave the rest of the field to be read as the next
    /// frame, or take nothing from the buffer and be read again for ever.
    const fn check_header(&self, length: usize) -> Result<(), LengthError> {
        let header = self.field().end;
        if length < header {
            return Err(LengthError::TooShort { length, header });
        }
        Ok(())
    }

    /// Where the payload of the first frame lies, once that is whole. Until then there is room made for the rest of it.
    #[inline(always)]
    pub(super) fn whole(&self, src: &mut BytesMut) -> Result<Option<Range<usize>>, LengthError> {
        match self.payload(src) {
            Ok(Some(payload)) if payload.end <= src.len() => Ok(Some(payload)),
            other => self.not_whole(other, src),
        }
    }

    #[cold]
    fn not_whole(
        &self,
        payload: Result<Option<Range<usize>>, LengthError>,
        src: &mut BytesMut,
    ) -> Result<Option<Range<usize>>, LengthError> {
        if let Some(payload) = payload? {
            src.reserve(payload.end - src.len());
        }
        Ok(None)
    }

    /// How long the first frame is, if it is whole.
    #[inline]
    pub(super) fn following(&self, src: &[u8]) -> Option<usize> {
        let payload = self.payload(src).ok().flatten()?;
        (payload.end <= src.len()).then_some(payload.end)
    }

    /// Appends a frame of this payload.
    #[inline(always)]
    pub(super) fn put(&self, payload: &[u8], dst: &mut BytesMut) -> Result<(), LengthError> {
        if payload.len() > self.max {
            return Err(self.too_long(payload.len() as u64));
        }
        match u32::try_from(payload.len()) {
            Ok(length) if self.plain => {
                dst.reserve(PLAIN_HEADER + payload.len());
                dst.put_u32(length);
                dst.put_slice(payload);
                Ok(())
            }
            _ => self.encode_by_settings(payload, dst),
        }
    }

    fn encode_by_settings(&self, payload: &[u8], dst: &mut BytesMut) -> Result<(), LengthError> {
        let skip = self.skip();
        self.check_header(skip + payload.len())?;
        let length = payload.len() as u64;
        let value = length.checked_add_signed(-i64::from(self.adjustment));
        let width = self.width.bytes();
        let value = match value {
            Some(value) if width == 8 || value >> (8 * width) == 0 => value,
            _ => {
                return Err(LengthError::NotExpressible {
                    length: payload.len(),
                    adjustment: self.adjustment,
                    width: self.width,
                });
            }
        };
        let start = dst.len();
        dst.reserve(skip + payload.len());
        dst.put_bytes(0, skip);
        dst.put_slice(payload);
        let field = &mut dst[start..][self.field()];
        if self.little_endian {
            field.copy_from_slice(&value.to_le_bytes()[..width]);
        } else {
            field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
        Ok(())
    }

    #[cold]
    const fn too_long(&self, length: u64) -> LengthError {
        LengthError::TooLong {
            length,
            max: self.max,
        }
    }
}

impl Decoder for Length {
    type Item = Bytes;
    type Error = LengthError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, LengthError> {
        let Some(payload) = self.whole(src)? else {
            return Ok(None);
        };
        let mut frame = src.split_to(payload.end).freeze();
        frame.advance(payload.start);
        Ok(Some(frame))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, LengthError> {
        if src.is_empty() {
            return Ok(None);
        }
        // not left to `decode`: nothing will arrive any more that would need room
        let payload = self.payload(src)?;
        let expected = payload.map_or(self.field().end, |payload| payload.end);
        if src.len() < expected {
            return Err(LengthError::Truncated {
                received: src.len(),
                expected,
            });
        }
        self.decode(src)
    }
}

impl Encoder<Bytes> for Length {
    type Error = LengthError;

    #[inline(always)]
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> Result<(), LengthError> {
        self.put(&item, dst)
    }
}

#[cfg(test)]
mod tests;
