//! Frames with a varint prefix that contains their length.

use std::{error::Error, fmt, io, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DEFAULT_MAX_FRAME, Decoder, Encoder, FrameCodec, FrameLimit, clamp_max};

/// Maximum length of a prefix in bytes.
const MAX_PREFIX: usize = 5;

/// Codec for frames with a varint prefix that contains their length.
///
/// Pass it to `CodecLayer` in a stack. Scope: session. It keeps no state between calls.
///
/// The prefix is a base-128 varint of at most five bytes: seven bits of the length in each
/// byte, the least significant first, and the highest bit set in all bytes but the last. Netty
/// calls the two directions `ProtobufVarint32FrameDecoder` and
/// `ProtobufVarint32LengthFieldPrepender`. prost writes the same with
/// `encode_length_delimited`, and Java's protobuf with `writeDelimitedTo`. A prefix may have
/// more bytes than its length needs.
///
/// A decoded message shares the memory of the read buffer. It costs no copy and no allocation,
/// but a message that is kept keeps the whole buffer alive. To keep a small part for long, keep
/// a [`Bytes::copy_from_slice`].
///
/// The maximum is checked as soon as the prefix has arrived. If the frame is allowed and
/// incomplete, the codec reserves room for the rest at once.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, Encoder, VarintDelimited, VarintDelimitedError};
///
/// # fn main() -> Result<(), VarintDelimitedError> {
/// let mut codec = VarintDelimited::new().max_frame_length(1024);
/// let mut buffer = BytesMut::new();
/// codec.encode(&b"hello"[..], &mut buffer)?;
/// codec.encode(&[7; 300][..], &mut buffer)?;
/// assert!(buffer.starts_with(b"\x05hello\xac\x02\x07\x07"));
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), [7; 300][..]);
/// assert_eq!(codec.decode(&mut buffer)?, None);
///
/// // The prefix is enough to refuse a frame.
/// buffer.extend_from_slice(b"\x80\x10");
/// let refused = codec.decode(&mut buffer).unwrap_err();
/// assert_eq!(refused.to_string(), "frame of 2048 bytes exceeds the maximum of 1024");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// After an error in a received prefix, the rest of the stream cannot be decoded. The buffer is
/// left unchanged. A message that cannot be sent leaves no bytes in the buffer.
#[derive(Clone, Debug)]
pub struct VarintDelimited {
    max: usize,
}

impl VarintDelimited {
    /// Creates a new codec. The maximum is 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: DEFAULT_MAX_FRAME,
        }
    }

    /// Sets the maximum length of a payload, in bytes, received or sent. The default is 64 KiB. A
    /// maximum above 1 GiB is reduced to 1 GiB.
    #[must_use]
    pub const fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// Returns the maximum length of a payload in bytes.
    #[must_use]
    pub const fn get_max_frame_length(&self) -> usize {
        self.max
    }

    /// Returns the range of the first frame's payload, or `None` while its prefix is incomplete.
    #[inline]
    fn payload(&self, src: &[u8]) -> Result<Option<Range<usize>>, VarintDelimitedError> {
        let mut length = 0_u64;
        for (at, &byte) in src.iter().take(MAX_PREFIX).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return match usize::try_from(length) {
                    Ok(length) if length <= self.max => Ok(Some(at + 1..at + 1 + length)),
                    _ => Err(self.too_long(length)),
                };
            }
        }
        if src.len() >= MAX_PREFIX {
            return Err(VarintDelimitedError::Prefix);
        }
        Ok(None)
    }

    /// Returns the range of the first frame's payload once the frame is complete. Until then,
    /// reserves room for the rest.
    #[inline]
    fn whole(&self, src: &mut BytesMut) -> Result<Option<Range<usize>>, VarintDelimitedError> {
        match self.payload(src)? {
            Some(payload) if payload.end <= src.len() => Ok(Some(payload)),
            Some(payload) => {
                src.reserve(payload.end - src.len());
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Checks at the end of the stream that the first frame is complete.
    fn check_end(&self, src: &[u8]) -> Result<(), VarintDelimitedError> {
        let expected = match self.payload(src)? {
            Some(payload) => payload.end,
            None => src.len() + 1,
        };
        if src.len() < expected {
            return Err(VarintDelimitedError::Truncated {
                received: src.len(),
                expected,
            });
        }
        Ok(())
    }

    /// Returns the prefix for a payload of `length` bytes, and how many bytes of the array it has.
    fn prefix(&self, length: usize) -> Result<([u8; MAX_PREFIX], usize), VarintDelimitedError> {
        if length > self.max {
            return Err(self.too_long(length as u64));
        }
        let mut prefix = [0; MAX_PREFIX];
        let mut rest = length;
        let mut at = 0;
        while rest >= 0x80 {
            prefix[at] = low_bits(rest) | 0x80;
            rest >>= 7;
            at += 1;
        }
        prefix[at] = low_bits(rest);
        Ok((prefix, at + 1))
    }

    #[cold]
    const fn too_long(&self, length: u64) -> VarintDelimitedError {
        VarintDelimitedError::TooLong {
            length,
            max: self.max,
        }
    }
}

/// Returns the lowest seven bits.
#[expect(clippy::cast_possible_truncation, reason = "the bits fit a byte")]
const fn low_bits(number: usize) -> u8 {
    (number & 0x7f) as u8
}

impl Default for VarintDelimited {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameLimit for VarintDelimited {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = clamp_max(bytes);
    }
}

impl Decoder for VarintDelimited {
    type Item = Bytes;
    type Error = VarintDelimitedError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, VarintDelimitedError> {
        let Some(payload) = self.whole(src)? else {
            return Ok(None);
        };
        let mut frame = src.split_to(payload.end).freeze();
        frame.advance(payload.start);
        Ok(Some(frame))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, VarintDelimitedError> {
        if src.is_empty() {
            return Ok(None);
        }
        self.check_end(src)?;
        self.decode(src)
    }
}

impl Encoder<Bytes> for VarintDelimited {
    type Error = VarintDelimitedError;

    #[inline]
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> Result<(), VarintDelimitedError> {
        self.encode(&item[..], dst)
    }
}

impl Encoder<&[u8]> for VarintDelimited {
    type Error = VarintDelimitedError;

    #[inline]
    fn encode(&mut self, item: &[u8], dst: &mut BytesMut) -> Result<(), VarintDelimitedError> {
        let (prefix, length) = self.prefix(item.len())?;
        dst.reserve(length + item.len());
        dst.put_slice(&prefix[..length]);
        dst.put_slice(item);
        Ok(())
    }
}

impl FrameCodec for VarintDelimited {
    #[inline]
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, VarintDelimitedError> {
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
    ) -> Result<Option<T>, VarintDelimitedError> {
        if src.is_empty() {
            return Ok(None);
        }
        self.check_end(src)?;
        self.read_frame(src, read)
    }

    #[inline]
    fn begin_frame(&mut self, dst: &mut BytesMut) {
        dst.put_u8(0);
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), VarintDelimitedError> {
        let payload = start + 1..dst.len();
        let (prefix, length) = self.prefix(payload.len())?;
        if length > 1 {
            // A payload of 128 bytes or more moves by the rest of its prefix.
            dst.put_bytes(0, length - 1);
            dst.copy_within(payload, start + length);
        }
        dst[start..start + length].copy_from_slice(&prefix[..length]);
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.max
    }
}

/// Returned when a frame cannot be decoded or encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum VarintDelimitedError {
    /// A payload exceeds the maximum. The peer may speak another protocol, or
    /// [`max_frame_length`](VarintDelimited::max_frame_length) may be too low.
    TooLong {
        /// Length of the payload in bytes. For a received frame, the length in its prefix.
        length: u64,
        /// The maximum in bytes.
        max: usize,
    },
    /// A received prefix has more than five bytes. The peer speaks another protocol.
    Prefix,
    /// The stream, or the message of a message transport, ended within a frame.
    Truncated {
        /// Number of bytes of the frame that have arrived.
        received: usize,
        /// Number of bytes that the frame has. While the prefix is incomplete, at least one more
        /// than have arrived.
        expected: usize,
    },
    /// The transport failed.
    Io(io::Error),
}

impl fmt::Display for VarintDelimitedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "frame of {length} bytes exceeds the maximum of {max}")
            }
            Self::Prefix => write!(f, "length prefix exceeds {MAX_PREFIX} bytes"),
            Self::Truncated { received, expected } => {
                write!(f, "frame ended after {received} of {expected} bytes")
            }
            Self::Io(_) => f.write_str("transport failed while reading or writing frames"),
        }
    }
}

impl Error for VarintDelimitedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for VarintDelimitedError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests;
