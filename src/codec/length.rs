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

    /// The length field's least significant byte comes first.
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
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};
    use tokio_util::codec::{LengthDelimitedCodec, length_delimited};

    use super::{super::testing::*, *};

    fn encoded(codec: &Length, payloads: &[Vec<u8>]) -> Result<BytesMut, LengthError> {
        let mut stream = BytesMut::new();
        for payload in payloads {
            codec
                .clone()
                .encode(Bytes::from(payload.clone()), &mut stream)?;
        }
        Ok(stream)
    }

    fn refused_header(codec: &Length, header: &[u8]) -> LengthError {
        let mut buffer = BytesMut::from(header);
        let error = codec.clone().decode(&mut buffer).unwrap_err();
        assert_eq!(buffer, header, "the buffer is left as it was");
        error
    }

    #[test]
    fn codec_is_small_enough_to_sit_in_every_session() {
        assert!(size_of::<Length>() <= 40);
    }

    #[test]
    fn payload_shares_the_memory_that_it_arrived_in() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x01c"[..]);
        let arrived = buffer.as_ptr() as usize;
        let mut codec = Length::new();
        let first = codec.decode(&mut buffer).unwrap().unwrap();
        let second = codec.decode(&mut buffer).unwrap().unwrap();
        assert_eq!(first.as_ptr() as usize, arrived + 4);
        assert_eq!(second.as_ptr() as usize, arrived + 10);
    }

    #[test]
    fn maximum_is_checked_before_the_payload_arrives_and_nothing_is_reserved_for_it() {
        let mut buffer = BytesMut::with_capacity(16);
        buffer.extend_from_slice(&65_537_u32.to_be_bytes());
        let error = Length::new().decode(&mut buffer).unwrap_err();
        assert!(matches!(
            error,
            LengthError::TooLong {
                length: 65_537,
                max: 65_536
            }
        ));
        assert_eq!(buffer.capacity(), 16);
    }

    #[test]
    fn room_for_an_incomplete_frame_is_reserved_at_once() {
        let mut buffer = BytesMut::with_capacity(16);
        buffer.extend_from_slice(&65_536_u32.to_be_bytes());
        assert_eq!(Length::new().decode(&mut buffer).unwrap(), None);
        assert_eq!(buffer.capacity(), 65_540);
    }

    #[test]
    fn maximum_is_of_the_payload_and_not_of_the_field() {
        let codec = Length::new().with_adjustment(-4).with_max_length(8);
        assert!(matches!(
            refused_header(&codec, &[0, 0, 0, 13]),
            LengthError::TooLong { length: 9, max: 8 }
        ));
        let stream = encoded(&codec, &[vec![7; 8]]).unwrap();
        assert_eq!(stream[..4], [0, 0, 0, 12]);
        assert!(encoded(&codec, &[vec![7; 9]]).is_err());
    }

    #[test]
    fn adjustment_below_zero_or_beyond_64_bits_is_an_error() {
        let under = Length::new().with_adjustment(-4);
        assert_eq!(
            refused_header(&under, &[0, 0, 0, 3]).to_string(),
            "length field of 3 with an adjustment of -4 is no length"
        );
        let over = Length::new()
            .with_field_width(FieldWidth::U64)
            .with_adjustment(1);
        assert!(matches!(
            refused_header(&over, &[0xff; 8]),
            LengthError::OutOfRange {
                field: u64::MAX,
                ..
            }
        ));
    }

    #[test]
    fn frame_that_ends_within_its_header_is_an_error_and_not_an_endless_loop() {
        let whole_frames = Length::new().with_skip(0);
        for length in 0..4 {
            assert!(matches!(
                refused_header(&whole_frames, &[0, 0, 0, length]),
                LengthError::TooShort { header: 4, .. }
            ));
        }
        let error = encoded(&whole_frames, &[vec![0; 3]]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame of 3 bytes, where the header alone has 4"
        );
    }

    #[test]
    fn length_field_is_written_over_a_payload_that_contains_it() {
        let codec = Length::new()
            .with_field_offset(1)
            .with_field_width(FieldWidth::U16)
            .with_skip(0);
        let stream = encoded(&codec, &[b"T??hello".to_vec()]).unwrap();
        assert_eq!(stream, b"T\x00\x08hello"[..]);
    }

    #[test]
    fn message_that_cannot_be_sent_leaves_no_bytes() {
        let narrow = Length::new().with_field_width(FieldWidth::U8);
        let counted = Length::new().with_adjustment(10);
        let small = Length::new().with_max_length(5);
        let whole = Length::new().with_skip(0);
        for (codec, length, expected) in [
            (
                narrow,
                256,
                "length of 256 less an adjustment of 0 does not fit a field of 1 bytes",
            ),
            (
                counted,
                9,
                "length of 9 less an adjustment of 10 does not fit a field of 4 bytes",
            ),
            (small, 6, "frame of 6 bytes, where 5 are allowed"),
            (whole, 2, "frame of 2 bytes, where the header alone has 4"),
        ] {
            let mut sent = BytesMut::from("before");
            let message = Bytes::from(vec![0; length]);
            let error = codec.clone().encode(message, &mut sent).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(sent, "before");
        }
    }

    #[test]
    fn stream_that_ends_within_a_frame_is_an_error_without_a_reservation() {
        for (bytes, expected) in [
            (&b"\0\0"[..], "frame ended after 2 of 4 bytes"),
            (b"\0\0\xff\0abc", "frame ended after 7 of 65284 bytes"),
        ] {
            let mut buffer = BytesMut::from(bytes);
            let before = buffer.capacity();
            let error = Length::new().decode_eof(&mut buffer).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(buffer.capacity(), before);
        }
    }

    #[test]
    fn truncated_message_does_not_disturb_the_next_one() {
        let mut codec = Length::new();
        let mut truncated = BytesMut::from(&b"\0\0\0\x09abc"[..]);
        assert!(codec.decode_eof(&mut truncated).is_err());
        let mut next = BytesMut::from(&b"\0\0\0\x03abc"[..]);
        assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "abc");
    }

    #[test]
    fn settings_that_change_nothing_stay_fast() {
        let codec = Length::new()
            .with_little_endian()
            .with_field_offset(3)
            .with_skip(4)
            .with_field_offset(0)
            .with_big_endian();
        assert!(codec.plain);
    }

    #[test]
    fn each_setting_alone_changes_how_a_header_is_read() {
        let codec = Length::new().with_skip(4);
        for (codec, field) in [
            (codec.clone(), [0, 0, 0, 1]),
            (codec.clone().with_adjustment(-1), [0, 0, 0, 2]),
            (codec.clone().with_field_offset(1), [9, 0, 0, 0]),
            (
                codec.clone().with_field_width(FieldWidth::U16),
                [0, 1, 9, 9],
            ),
            (codec.clone().with_little_endian(), [1, 0, 0, 0]),
            (codec.with_skip(5), [0, 0, 0, 1]),
        ] {
            let mut buffer = BytesMut::from(&field[..]);
            buffer.extend_from_slice(&[1; 2]);
            let payload = codec.clone().decode(&mut buffer).unwrap();
            assert_eq!(payload.as_deref(), Some(&[1][..]), "{codec:?}");
        }
    }

    #[test]
    fn maximum_beyond_what_memory_can_hold_is_cut() {
        let codec = Length::new()
            .with_field_width(FieldWidth::U64)
            .with_max_length(usize::MAX);
        assert_eq!(codec.max_length(), 1 << 30);
        assert!(matches!(
            refused_header(&codec, &[0x7f; 8]),
            LengthError::TooLong { .. }
        ));
    }

    #[test]
    fn io_error_is_the_source() {
        let error = LengthError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(error.source().unwrap().is::<io::Error>());
    }

    const WIDTHS: [FieldWidth; 8] = [
        FieldWidth::U8,
        FieldWidth::U16,
        FieldWidth::U24,
        FieldWidth::U32,
        FieldWidth::U40,
        FieldWidth::U48,
        FieldWidth::U56,
        FieldWidth::U64,
    ];

    prop_compose! {
        /// Any settings, often one or two away from those of `new`, and the maximum a small one.
        fn settings()(
            width in prop_oneof![Just(FieldWidth::U32), select(&WIDTHS[..])],
            offset in prop_oneof![Just(0), 0_u16..6],
            adjustment in prop_oneof![Just(0), -12_i32..12],
            skip in option::of(prop_oneof![Just(4), 0_u16..16]),
            little_endian in any::<bool>(),
            max in 0_usize..300,
        ) -> Length {
            let codec = Length::new()
                .with_field_width(width)
                .with_field_offset(offset)
                .with_adjustment(adjustment)
                .with_max_length(max);
            let codec = if little_endian { codec.with_little_endian() } else { codec };
            match skip {
                Some(skip) => codec.with_skip(skip),
                None => codec,
            }
        }
    }

    fn plain_or_settings() -> impl Strategy<Value = Length> {
        let plain = (0_usize..300).prop_map(|max| Length::new().with_max_length(max));
        prop_oneof![1 => plain, 3 => settings()]
    }

    /// tokio-util's codec with the same settings, but for its maximum, which counts otherwise and is out of the way.
    fn peer(codec: &Length) -> length_delimited::Builder {
        let mut builder = LengthDelimitedCodec::builder();
        builder
            .length_field_offset(codec.offset.into())
            .length_field_length(codec.width.bytes())
            .length_adjustment(codec.adjustment as isize)
            .max_frame_length(1 << 40);
        if codec.little_endian {
            builder.little_endian();
        }
        if let Some(skip) = codec.skip {
            builder.num_skip(skip.into());
        }
        builder
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        vec(vec(any::<u8>(), 0..300), 0..6)
    }

    /// Payloads as a decoder makes them: where they contain the length field, it says what it should.
    fn settled(codec: &Length, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut settled = Vec::new();
        for payload in payloads {
            if let Ok(frame) = encoded(codec, std::slice::from_ref(payload)) {
                settled.push(frame[codec.skip()..].to_vec());
            }
        }
        settled
    }

    /// Bytes that are often a header with a small length.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        vec(
            prop_oneof![3 => Just(0), 2 => 0_u8..20, 1 => any::<u8>()],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives_however_it_is_split(
            codec in plain_or_settings(), payloads in payloads(), pieces in pieces(),
        ) {
            let payloads = settled(&codec, &payloads);
            let stream = encoded(&codec, &payloads).unwrap();
            let (received, error) = decode_stream(&mut codec.clone(), &stream, &pieces);
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert_eq!(received, payloads);
        }

        #[test]
        fn tokio_util_decodes_what_we_send(codec in plain_or_settings(), payloads in payloads()) {
            let mut peer = peer(&codec).new_codec();
            // It clips its maximum to the longest payload that the field can express, but holds the field itself
            // against it: with an adjustment below zero it refuses the largest values of a narrow field.
            let clip = peer.max_frame_length() as i64;
            let mut payloads = settled(&codec, &payloads);
            payloads.retain(|payload| payload.len() as i64 - i64::from(codec.adjustment) <= clip);
            let mut stream = encoded(&codec, &payloads).unwrap();
            for payload in &payloads {
                let received = peer.decode(&mut stream).unwrap();
                prop_assert_eq!(received.as_deref(), Some(&payload[..]));
            }
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn we_send_what_tokio_util_sends_where_the_field_is_all_of_the_header(
            mut codec in plain_or_settings(), payloads in payloads(),
        ) {
            // tokio-util's encoder writes no other header
            codec = Length { offset: 0, skip: None, ..codec }.settled();
            let mut peer = peer(&codec).new_codec();
            let mut theirs = BytesMut::new();
            let payloads = settled(&codec, &payloads);
            for payload in &payloads {
                peer.encode(Bytes::from(payload.clone()), &mut theirs).unwrap();
            }
            prop_assert_eq!(&encoded(&codec, &payloads).unwrap(), &theirs);
            let (received, error) = decode_stream(&mut codec, &theirs, &[7]);
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert_eq!(received, payloads);
        }

        #[test]
        fn any_bytes_decode_as_tokio_util_decodes_them_until_one_is_refused(
            codec in plain_or_settings(), stream in any_stream(), pieces in pieces(),
        ) {
            let (ours, error) = decode_stream(&mut codec.clone(), &stream, &pieces);
            let mut peer = peer(&codec).new_codec();
            let mut buffer = BytesMut::from(&stream[..]);
            for payload in &ours {
                let theirs = peer.decode(&mut buffer).unwrap();
                prop_assert_eq!(theirs.as_deref(), Some(&payload[..]));
            }
            if error.is_none() {
                prop_assert!(buffer.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_decoded_within_the_maximum_and_its_memory(
            codec in plain_or_settings(), stream in any_stream(),
        ) {
            let mut codec = codec;
            let frame = codec.skip() + codec.max;
            let mut buffer = BytesMut::from(&stream[..]);
            let room = buffer.capacity();
            while let Ok(Some(payload)) = codec.decode(&mut buffer) {
                prop_assert!(payload.len() <= codec.max);
            }
            // a buffer that grows may double
            prop_assert!(buffer.capacity() <= (room + frame).max(2 * room));
        }

        #[test]
        fn whatever_is_decoded_can_be_encoded_to_the_same_payload(
            codec in plain_or_settings(), stream in any_stream(),
        ) {
            let (payloads, _) = decode_stream(&mut codec.clone(), &stream, &[stream.len().max(1)]);
            let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
            prop_assert_eq!(settled(&codec, &payloads), payloads);
        }
    }
}
