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
//! use bytes::{Bytes, BytesMut};
//! use getty::codec::{Decoder, Encoder, FieldWidth, Length, LengthError};
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

use std::{error::Error, fmt, io, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Decoder, Encoder, MAX_FRAME, clamp_max};

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

/// How many bytes a length field has: a type instead of a number, so that there is no width that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldWidth {
    /// One byte.
    U8 = 1,
    /// Two bytes.
    U16,
    /// Three bytes.
    U24,
    /// Four bytes.
    U32,
    /// Five bytes.
    U40,
    /// Six bytes.
    U48,
    /// Seven bytes.
    U56,
    /// Eight bytes.
    U64,
}

impl FieldWidth {
    /// The number of bytes: 1 to 8.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

impl Length {
    /// A header of four bytes, big-endian, that holds the length of what follows; at most 64 KiB of it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: MAX_FRAME,
            adjustment: 0,
            offset: 0,
            skip: None,
            width: FieldWidth::U32,
            little_endian: false,
            plain: true,
        }
    }

    /// How long a payload may be, received or sent, in bytes. 64 KiB by default; more than 1 GiB is taken as 1 GiB.
    ///
    /// What counts is the message: not the bytes that are [skipped](Self::with_skip), nor what the field says before
    /// its [adjustment](Self::with_adjustment).
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// How many bytes of the header stand before the length field. 0 by default.
    #[must_use]
    pub const fn with_field_offset(mut self, bytes: u16) -> Self {
        self.offset = bytes;
        self.settled()
    }

    /// How many bytes the length field has. 4 by default.
    #[must_use]
    pub const fn with_field_width(mut self, width: FieldWidth) -> Self {
        self.width = width;
        self.settled()
    }

    /// The length field's most significant byte comes first. This is the default.
    #[must_use]
    pub const fn with_big_endian(mut self) -> Self {
        self.little_endian = false;
        self.settled()
    }

    /// The length field's least significant byte comes first. By default it is the most significant one.
    #[must_use]
    pub const fn with_little_endian(mut self) -> Self {
        self.little_endian = true;
        self.settled()
    }

    /// What to add to the length field to get the payload's length. 0 by default.
    ///
    /// It is negative where the field also counts bytes that are [skipped](Self::with_skip), such as the header;
    /// positive where the payload has bytes that the field does not count, such as a checksum, or a header that is not
    /// skipped.
    #[must_use]
    pub const fn with_adjustment(mut self, bytes: i32) -> Self {
        self.adjustment = bytes;
        self.settled()
    }

    /// How many bytes of a frame to leave out of its payload, from its beginning. By default all up to the end of the
    /// length field.
    ///
    /// With 0 the handler sees the whole frame. What is left out is lost, and sent as zeros but for the length field:
    /// where a header says more than a length, leave out less.
    #[must_use]
    pub const fn with_skip(mut self, bytes: u16) -> Self {
        self.skip = Some(bytes);
        self.settled()
    }

    /// How long a payload may be.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }

    const fn settled(mut self) -> Self {
        self.plain = self.adjustment == 0
            && self.offset == 0
            && matches!(self.width, FieldWidth::U32)
            && !self.little_endian
            && self.skip() == PLAIN_HEADER;
        self
    }

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

impl Default for Length {
    fn default() -> Self {
        Self::new()
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

/// Why a frame was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum LengthError {
    /// A payload is longer than the maximum: the peer speaks another protocol, or
    /// [`with_max_length`](Length::with_max_length) is too low.
    TooLong {
        /// The payload's length, by its header if it is received.
        length: u64,
        /// The maximum.
        max: usize,
    },
    /// A frame ends before its length field does. Of a received frame, the header is wrong or the settings are; a
    /// message to send has to contain what [the skip](Length::with_skip) leaves of the header.
    TooShort {
        /// The whole frame's length.
        length: usize,
        /// How many bytes it has up to the end of the length field.
        header: usize,
    },
    /// A received length field is no length once it is adjusted: less than zero, or beyond 64 bits.
    OutOfRange {
        /// What the field says.
        field: u64,
        /// What is to be added.
        adjustment: i32,
    },
    /// A message's length does not fit the length field once the adjustment is taken off: it has to be shorter (or
    /// longer, with an adjustment above zero), or the field wider.
    NotExpressible {
        /// The message's length.
        length: usize,
        /// What the receiver will add to the field.
        adjustment: i32,
        /// The field's width.
        width: FieldWidth,
    },
    /// The stream, or the message of a message transport, ended within a frame.
    Truncated {
        /// How many bytes of the frame there are.
        received: usize,
        /// How many there should be: of the header, if not even that is complete.
        expected: usize,
    },
    /// The transport failed.
    Io(io::Error),
}

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "frame of {length} bytes, where {max} are allowed")
            }
            Self::TooShort { length, header } => write!(
                f,
                "frame of {length} bytes, where the header alone has {header}"
            ),
            Self::OutOfRange { field, adjustment } => write!(
                f,
                "length field of {field} with an adjustment of {adjustment} is no length"
            ),
            Self::NotExpressible {
                length,
                adjustment,
                width,
            } => write!(
                f,
                "length of {length} less an adjustment of {adjustment} does not fit a field of {} bytes",
                width.bytes()
            ),
            Self::Truncated { received, expected } => {
                write!(f, "frame ended after {received} of {expected} bytes")
            }
            Self::Io(_) => f.write_str("transport failed while frames were read or written"),
        }
    }
}

impl Error for LengthError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for LengthError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests;
