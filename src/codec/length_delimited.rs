//! Frames with a header that contains their length.

mod error;
mod field_width;
mod settings;

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use self::{error::LengthDelimitedError, field_width::FieldWidth};
use super::{Decoder, Encoder, FrameCodec, FrameLimit, clamp_max};

/// Length of the default header in bytes: a big-endian `u32` and nothing else.
const PLAIN_HEADER: usize = size_of::<u32>();

/// Codec for frames with a header that contains their length.
///
/// Pass it to `CodecLayer` in a stack. Scope: session. It keeps no state between calls, so a
/// truncated frame cannot affect the next one on a message transport.
///
/// By default the header is the payload's length in four bytes, big-endian. The settings
/// describe most headers that contain a length:
///
/// ```text
/// |  ...                 |  length field        |  ...  |  payload                      |
/// |- length_field_offset |- length_field_length |       |- field + length_adjustment   -|
/// |- num_skip                                          -|
/// ```
///
/// A decoded message shares the memory of the read buffer. It costs no copy and no allocation,
/// but a message that is kept keeps the whole buffer alive. Use [`Bytes::copy_from_slice`] to
/// keep a small part for long.
///
/// The maximum is checked as soon as the header has arrived. If the frame is allowed and
/// incomplete, the codec reserves room for the rest at once. A header of four bytes can
/// therefore allocate as much memory as the maximum.
///
/// ```
/// use getty::codec::{Bytes, BytesMut, Decoder, Encoder, FieldWidth};
/// use getty::codec::{LengthDelimited, LengthDelimitedError};
///
/// # fn main() -> Result<(), LengthDelimitedError> {
/// let mut codec = LengthDelimited::new();
/// let mut buffer = BytesMut::new();
/// codec.encode(Bytes::from("hello"), &mut buffer)?;
/// assert_eq!(buffer, b"\0\0\0\x05hello"[..]);
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
/// assert_eq!(codec.decode(&mut buffer)?, None);
///
/// // A type byte, then a length of two bytes that counts the whole frame. The header is kept.
/// let mut codec = LengthDelimited::new()
///     .length_field_offset(1)
///     .length_field_length(FieldWidth::U16)
///     .num_skip(0)
///     .max_frame_length(1024);
/// buffer.extend_from_slice(b"T\x00\x08hello");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), b"T\x00\x08hello"[..]);
///
/// // The header is enough to refuse a frame.
/// buffer.extend_from_slice(b"T\xff\xff");
/// let refused = codec.decode(&mut buffer).unwrap_err();
/// assert_eq!(refused.to_string(), "frame of 65535 bytes exceeds the maximum of 1024");
/// # Ok(())
/// # }
/// ```
///
/// # Differences from tokio-util
///
/// The settings have the names of those in [`tokio_util::codec::length_delimited::Builder`].
/// They are methods of the codec and differ in these points:
///
/// - `max_frame_length` limits the payload. In tokio-util it limits the length field of a
///   received frame, before the adjustment. The default is 64 KiB instead of 8 MiB.
/// - `length_field_length` takes a [`FieldWidth`], so an invalid width does not compile.
/// - The encoder writes the whole header, with zeros for the bytes that are not the length. In
///   tokio-util it writes the length field only.
/// - `native_endian` and `length_field_type` do not exist.
/// - A frame that ends before its own length field is an error.
/// - Errors are typed; see [`LengthDelimitedError`].
///
/// # Sending
///
/// A message to send is what the decoder would return for the frame. The encoder prepends as
/// many zero bytes as the decoder skips and writes the length field. If
/// [`num_skip`](Self::num_skip) leaves the field in the message, the encoder overwrites that
/// part of the message.
///
/// # Errors
///
/// After an error in a received header, the rest of the stream cannot be decoded. The buffer is
/// left unchanged. A message that cannot be sent leaves no bytes in the buffer.
#[derive(Clone, Debug)]
pub struct LengthDelimited {
    max: usize,
    adjustment: i32,
    offset: u16,
    skip: Option<u16>,
    width: FieldWidth,
    little_endian: bool,
    /// `true` if all settings but `max` have their defaults so that the header has a fast path.
    plain: bool,
}

impl LengthDelimited {
    const fn skip(&self) -> usize {
        match self.skip {
            Some(bytes) => bytes as usize,
            None => self.field().end,
        }
    }

    /// Returns the range of the length field in a frame.
    const fn field(&self) -> Range<usize> {
        let start = self.offset as usize;
        start..start + self.width.bytes()
    }

    /// Returns the range of the first frame's payload, or `None` while its length field is
    /// incomplete.
    #[inline(always)]
    pub(super) fn payload(&self, src: &[u8]) -> Result<Option<Range<usize>>, LengthDelimitedError> {
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

    fn payload_by_settings(
        &self,
        src: &[u8],
    ) -> Result<Option<Range<usize>>, LengthDelimitedError> {
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
            return Err(LengthDelimitedError::OutOfRange {
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

    /// Checks that a frame contains its whole length field. A shorter frame would leave the rest of
    /// the field to be parsed as the next frame or would be decoded endlessly from no bytes.
    const fn check_header(&self, length: usize) -> Result<(), LengthDelimitedError> {
        let header = self.field().end;
        if length < header {
            return Err(LengthDelimitedError::TooShort { length, header });
        }
        Ok(())
    }

    /// Returns the range of the first frame's payload once the frame is complete. Until then,
    /// reserves room for the rest.
    #[inline(always)]
    pub(super) fn whole(
        &self,
        src: &mut BytesMut,
    ) -> Result<Option<Range<usize>>, LengthDelimitedError> {
        match self.payload(src) {
            Ok(Some(payload)) if payload.end <= src.len() => Ok(Some(payload)),
            other => self.not_whole(other, src),
        }
    }

    #[cold]
    fn not_whole(
        &self,
        payload: Result<Option<Range<usize>>, LengthDelimitedError>,
        src: &mut BytesMut,
    ) -> Result<Option<Range<usize>>, LengthDelimitedError> {
        if let Some(payload) = payload? {
            src.reserve(payload.end - src.len());
        }
        Ok(None)
    }

    /// Returns the length of the first frame if it is complete.
    #[inline]
    pub(super) fn following(&self, src: &[u8]) -> Option<usize> {
        let payload = self.payload(src).ok().flatten()?;
        (payload.end <= src.len()).then_some(payload.end)
    }

    /// Appends a frame with this payload.
    #[inline(always)]
    pub(super) fn put(
        &self,
        payload: &[u8],
        dst: &mut BytesMut,
    ) -> Result<(), LengthDelimitedError> {
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

    fn encode_by_settings(
        &self,
        payload: &[u8],
        dst: &mut BytesMut,
    ) -> Result<(), LengthDelimitedError> {
        let skip = self.skip();
        let value = self.field_value(payload.len())?;
        let start = dst.len();
        dst.reserve(skip + payload.len());
        dst.put_bytes(0, skip);
        dst.put_slice(payload);
        self.write_field(value, &mut dst[start..]);
        Ok(())
    }

    /// Returns the value of the length field for a payload of `length` bytes.
    fn field_value(&self, length: usize) -> Result<u64, LengthDelimitedError> {
        self.check_header(self.skip() + length)?;
        let value = (length as u64).checked_add_signed(-i64::from(self.adjustment));
        let width = self.width.bytes();
        match value {
            Some(value) if width == 8 || value >> (8 * width) == 0 => Ok(value),
            _ => Err(LengthDelimitedError::NotExpressible {
                length,
                adjustment: self.adjustment,
                width: self.width,
            }),
        }
    }

    fn write_field(&self, value: u64, frame: &mut [u8]) {
        let width = self.width.bytes();
        let field = &mut frame[self.field()];
        if self.little_endian {
            field.copy_from_slice(&value.to_le_bytes()[..width]);
        } else {
            field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    }

    /// Checks that a frame which has ended is complete.
    fn check_end(&self, src: &[u8]) -> Result<(), LengthDelimitedError> {
        let payload = self.payload(src)?;
        let expected = payload.map_or(self.field().end, |payload| payload.end);
        if src.len() < expected {
            return Err(LengthDelimitedError::Truncated {
                received: src.len(),
                expected,
            });
        }
        Ok(())
    }

    #[cold]
    const fn too_long(&self, length: u64) -> LengthDelimitedError {
        LengthDelimitedError::TooLong {
            length,
            max: self.max,
        }
    }
}

impl FrameLimit for LengthDelimited {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = clamp_max(bytes);
    }
}

impl Decoder for LengthDelimited {
    type Item = Bytes;
    type Error = LengthDelimitedError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, LengthDelimitedError> {
        let Some(payload) = self.whole(src)? else {
            return Ok(None);
        };
        let mut frame = src.split_to(payload.end).freeze();
        frame.advance(payload.start);
        Ok(Some(frame))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, LengthDelimitedError> {
        if src.is_empty() {
            return Ok(None);
        }
        // `decode` would reserve room for the rest, but nothing more will arrive.
        self.check_end(src)?;
        self.decode(src)
    }
}

impl Encoder<Bytes> for LengthDelimited {
    type Error = LengthDelimitedError;

    #[inline(always)]
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        self.put(&item, dst)
    }
}

impl Encoder<&[u8]> for LengthDelimited {
    type Error = LengthDelimitedError;

    #[inline(always)]
    fn encode(&mut self, item: &[u8], dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        self.put(item, dst)
    }
}

impl FrameCodec for LengthDelimited {
    #[inline]
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LengthDelimitedError> {
        let Some(payload) = self.whole(src)? else {
            return Ok(None);
        };
        let end = payload.end;
        let item = read(&src[payload]);
        src.advance(end);
        Ok(Some(item))
    }

    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LengthDelimitedError> {
        if src.is_empty() {
            return Ok(None);
        }
        self.check_end(src)?;
        self.read_frame(src, read)
    }

    #[inline]
    fn begin_frame(&mut self, dst: &mut BytesMut) {
        dst.put_bytes(0, self.skip());
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), LengthDelimitedError> {
        let length = dst.len() - start - self.skip();
        if length > self.max {
            return Err(self.too_long(length as u64));
        }
        let value = self.field_value(length)?;
        self.write_field(value, &mut dst[start..]);
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.max
    }
}

#[cfg(test)]
mod tests;
