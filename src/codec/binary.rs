//! Binary messages on transports that keep message boundaries.

use std::{error::Error, fmt, io};

use bytes::{Bytes, BytesMut};

use super::{
    DEFAULT_MAX_FRAME, Decoder, Encoder, FrameCodec, FrameLimit, clamp_max, text::Boundaries,
};

/// Codec for binary messages of at most 64 KiB by default, which may be empty.
///
/// Pass it to `CodecLayer` in a stack if WebSocket or datagrams carry bytes. It is the
/// counterpart of [`Text`](super::Text) for bytes. It differs from [`Raw`](super::Raw) in two
/// points:
///
/// - An empty message is a message. Several [formats](super::format) encode a value without
///   content as no bytes.
/// - It refuses to decode byte streams, which have no boundaries between messages. Use
///   [`LengthDelimited`](super::LengthDelimited) or [`VarintDelimited`](super::VarintDelimited)
///   there.
///
/// Scope: session. Each connection's clone remembers which kind of transport it decodes.
///
/// A decoded message shares the memory of the read buffer. A message that is kept keeps the
/// whole buffer alive. To keep a small part for long, keep a [`Bytes::copy_from_slice`].
///
/// ```
/// use getty::codec::{Binary, BinaryError, Bytes, BytesMut, Decoder, Encoder};
///
/// # fn main() -> Result<(), BinaryError> {
/// let mut codec = Binary::new().with_max_length(8);
/// let mut message = BytesMut::new();
/// codec.encode(&b"\x01\x02"[..], &mut message)?;
/// assert_eq!(codec.decode_eof(&mut message)?, Some(Bytes::from_static(b"\x01\x02")));
/// assert_eq!(codec.decode_eof(&mut message)?, Some(Bytes::new()));
///
/// let refused = codec.encode(&[0; 9][..], &mut message).unwrap_err();
/// assert_eq!(refused.to_string(), "message of 9 bytes exceeds the maximum of 8");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Binary {
    max: usize,
    boundaries: Boundaries,
}

impl Binary {
    /// Creates a new codec. The maximum is 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: DEFAULT_MAX_FRAME,
            boundaries: Boundaries::Unknown,
        }
    }

    /// Sets the maximum length of a message, in bytes, received or sent. The default is 64 KiB. A
    /// maximum above 1 GiB is reduced to 1 GiB.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// Returns the maximum length of a message in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }

    const fn check(&self, length: usize) -> Result<(), BinaryError> {
        if length > self.max {
            return Err(BinaryError::TooLong {
                length,
                max: self.max,
            });
        }
        Ok(())
    }
}

impl Default for Binary {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameLimit for Binary {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = clamp_max(bytes);
    }
}

impl Decoder for Binary {
    type Item = Bytes;
    type Error = BinaryError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, BinaryError> {
        self.boundaries.record_decode();
        if src.is_empty() {
            return Ok(None);
        }
        Err(BinaryError::NoBoundaries)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, BinaryError> {
        if !self.boundaries.record_decode_eof() {
            return self.decode(src);
        }
        self.check(src.len())?;
        Ok(Some(src.split().freeze()))
    }
}

impl Encoder<Bytes> for Binary {
    type Error = BinaryError;

    #[inline]
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> Result<(), BinaryError> {
        self.encode(&item[..], dst)
    }
}

impl Encoder<&[u8]> for Binary {
    type Error = BinaryError;

    #[inline]
    fn encode(&mut self, item: &[u8], dst: &mut BytesMut) -> Result<(), BinaryError> {
        self.check(item.len())?;
        dst.extend_from_slice(item);
        Ok(())
    }
}

impl FrameCodec for Binary {
    #[inline]
    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, BinaryError> {
        if !self.boundaries.record_decode_eof() {
            return self.read_frame(src, read);
        }
        self.check(src.len())?;
        let item = read(src);
        src.clear();
        Ok(Some(item))
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), BinaryError> {
        self.check(dst.len() - start)
    }

    fn max_payload(&self) -> usize {
        self.max
    }
}

/// Returned when a message cannot be decoded or encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum BinaryError {
    /// The message exceeds the maximum.
    TooLong {
        /// Length of the message in bytes.
        length: usize,
        /// The maximum in bytes.
        max: usize,
    },
    /// The transport is a byte stream, which has no message boundaries. Use
    /// [`LengthDelimited`](super::LengthDelimited) for bytes over streams.
    NoBoundaries,
    /// The transport failed.
    Io(io::Error),
}

impl fmt::Display for BinaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "message of {length} bytes exceeds the maximum of {max}")
            }
            Self::NoBoundaries => f.write_str(
                "a byte stream has no message boundaries; use `codec::LengthDelimited` for bytes \
                 over streams",
            ),
            Self::Io(_) => f.write_str("transport failed"),
        }
    }
}

impl Error for BinaryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for BinaryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_shares_the_memory_it_arrived_in() {
        let mut buffer = BytesMut::from("hello");
        let arrived = buffer.as_ptr();
        let message = Binary::new().decode_eof(&mut buffer).unwrap().unwrap();
        assert_eq!(message.as_ptr(), arrived);
        assert!(buffer.is_empty());
    }

    #[test]
    fn byte_stream_is_refused_and_its_end_is_not_a_message() {
        let mut codec = Binary::new();
        assert!(codec.decode(&mut BytesMut::new()).unwrap().is_none());
        for _ in 0..2 {
            assert!(codec.decode_eof(&mut BytesMut::new()).unwrap().is_none());
        }
        for mut part in ["PAY 100", "P"].map(BytesMut::from) {
            let refused = codec.decode_eof(&mut part).unwrap_err();
            assert!(matches!(refused, BinaryError::NoBoundaries));
            let refused = codec.read_frame_eof(&mut part, <[u8]>::len).unwrap_err();
            assert!(matches!(refused, BinaryError::NoBoundaries));
        }
    }

    #[test]
    fn maximum_applies_in_both_directions() {
        let mut codec = Binary::new().with_max_length(2);
        let mut buffer = BytesMut::from("abc");
        let refused = codec.decode_eof(&mut buffer).unwrap_err();
        assert!(matches!(
            refused,
            BinaryError::TooLong { length: 3, max: 2 }
        ));
        assert!(codec.read_frame_eof(&mut buffer, <[u8]>::len).is_err());
        assert!(codec.end_frame(&mut buffer, 0).is_err());
        assert!(codec.end_frame(&mut buffer, 1).is_ok());
        assert!(codec.encode(Bytes::from("abc"), &mut buffer).is_err());
        assert_eq!(buffer, "abc");
    }
}
