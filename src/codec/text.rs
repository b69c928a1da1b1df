//! Text messages on transports that keep message boundaries.

use std::{error::Error, fmt, io};

use bytes::BytesMut;

use super::{DEFAULT_MAX_FRAME, Decoder, Encoder, FrameCodec, FrameLimit, clamp_max};

/// Codec for text messages of at most 64 KiB by default, which may be empty.
///
/// Pass it to `CodecLayer` in a stack if WebSocket or datagrams carry text. Over WebSocket the
/// text is sent as text messages if `WsLayer` is set to do so. A byte stream has no boundaries
/// between texts. Its end is not a boundary either because the stream may have been cut off.
/// The codec refuses to decode streams; use [`Lines`](super::Lines) there. Scope: session. Each
/// connection's clone remembers which kind of transport it decodes.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, Encoder, Text, TextError};
///
/// # fn main() -> Result<(), TextError> {
/// let mut codec = Text::new().with_max_length(8);
/// let mut message = BytesMut::new();
/// codec.encode("two\nrows", &mut message)?;
/// assert_eq!(codec.decode_eof(&mut message)?.unwrap(), "two\nrows");
///
/// assert_eq!(codec.encode("too long!", &mut message), Err(TextError::TooLong { limit: 8 }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Text {
    /// At most [`LARGEST_MAX`](super::LARGEST_MAX).
    max: u32,
    boundaries: Boundaries,
}

/// Message boundaries of the transport. They are known from the first call: a session calls
/// `decode` first on a stream and `decode_eof` first on a message transport.
// (design.md: Why is `decode` called again when a stream has ended?)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundaries {
    Unknown,
    Kept,
    None,
}

impl Boundaries {
    /// Records a call of `decode`.
    pub(super) fn record_decode(&mut self) {
        if *self == Self::Unknown {
            *self = Self::None;
        }
    }

    /// Records a call of `decode_eof`. Returns `true` if the bytes are a message.
    pub(super) fn record_decode_eof(&mut self) -> bool {
        if *self == Self::None {
            return false;
        }
        *self = Self::Kept;
        true
    }
}

impl Text {
    /// Creates a new codec. The maximum is 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: narrow(DEFAULT_MAX_FRAME),
            boundaries: Boundaries::Unknown,
        }
    }

    /// Sets the maximum length of a received or sent message, in bytes. The default is 64 KiB. A
    /// maximum above 1 GiB is reduced to 1 GiB.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = narrow(clamp_max(bytes));
        self
    }

    /// Returns the maximum length of a message in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max as usize
    }

    fn check(&self, length: usize) -> Result<(), TextError> {
        let limit = self.max_length();
        if length > limit {
            return Err(TextError::TooLong { limit });
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a maximum is at most 1 GiB"
)]
const fn narrow(max: usize) -> u32 {
    max as u32
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameLimit for Text {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = narrow(clamp_max(bytes));
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = TextError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<String>, TextError> {
        self.boundaries.record_decode();
        if src.is_empty() {
            return Ok(None);
        }
        Err(TextError::NoBoundaries)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<String>, TextError> {
        if !self.boundaries.record_decode_eof() {
            return self.decode(src);
        }
        self.check(src.len())?;
        let text = std::str::from_utf8(src).map_err(|_| TextError::NotUtf8)?;
        let text = text.to_owned();
        src.clear();
        Ok(Some(text))
    }
}

impl<T: AsRef<str>> Encoder<T> for Text {
    type Error = TextError;

    #[inline]
    fn encode(&mut self, item: T, dst: &mut BytesMut) -> Result<(), TextError> {
        let text = item.as_ref();
        self.check(text.len())?;
        dst.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Reads a message without a check that it is UTF-8, which the format makes. A payload to send
/// must be UTF-8, which suits text formats such as JSON.
impl FrameCodec for Text {
    #[inline]
    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, TextError> {
        if !self.boundaries.record_decode_eof() {
            return self.read_frame(src, read);
        }
        self.check(src.len())?;
        let item = read(src);
        src.clear();
        Ok(Some(item))
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), TextError> {
        let text = &dst[start..];
        self.check(text.len())?;
        match str::from_utf8(text) {
            Ok(_) => Ok(()),
            Err(_) => Err(TextError::NotUtf8),
        }
    }

    fn max_payload(&self) -> usize {
        self.max_length()
    }
}

/// Returned when a message cannot be decoded or encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum TextError {
    /// The message exceeds the maximum.
    TooLong {
        /// The maximum in bytes.
        limit: usize,
    },
    /// A message is not UTF-8.
    NotUtf8,
    /// The transport is a byte stream, which has no message boundaries. Use
    /// [`Lines`](super::Lines) for text over streams.
    NoBoundaries,
    /// The transport failed.
    Io(io::Error),
}

impl PartialEq for TextError {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::TooLong { limit }, Self::TooLong { limit: other }) => limit == other,
            (Self::Io(error), Self::Io(other)) => error.kind() == other.kind(),
            (Self::NotUtf8, Self::NotUtf8) | (Self::NoBoundaries, Self::NoBoundaries) => true,
            _ => false,
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => write!(f, "message exceeds the maximum of {limit} bytes"),
            Self::NotUtf8 => f.write_str("message is not UTF-8"),
            Self::NoBoundaries => f.write_str(
                "a byte stream has no message boundaries; use `codec::Lines` for text over streams",
            ),
            Self::Io(_) => f.write_str("transport failed"),
        }
    }
}

impl Error for TextError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for TextError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_multiline_messages_are_decoded() {
        for text in ["", "hello", "two\nrows\n", "ä"] {
            let mut message = BytesMut::from(text);
            assert_eq!(Text::new().decode_eof(&mut message).unwrap().unwrap(), text);
            assert!(message.is_empty());
        }
    }

    #[test]
    fn end_of_a_stream_is_not_a_message() {
        let mut codec = Text::new();
        assert_eq!(codec.decode(&mut BytesMut::new()), Ok(None));
        for _ in 0..2 {
            assert_eq!(codec.decode_eof(&mut BytesMut::new()), Ok(None));
        }
        let refused = codec.decode_eof(&mut BytesMut::from("PAY 100"));
        assert_eq!(refused, Err(TextError::NoBoundaries));

        // Adapters may call `decode` between messages.
        let mut codec = Text::new();
        for text in ["", "hello", ""] {
            let decoded = codec.decode_eof(&mut BytesMut::from(text)).unwrap();
            assert_eq!(decoded.unwrap(), text);
            assert_eq!(codec.decode(&mut BytesMut::new()), Ok(None));
        }
    }

    #[test]
    fn invalid_text_is_refused() {
        let mut codec = Text::new().with_max_length(2);
        let refused = codec.decode_eof(&mut BytesMut::from(&b"\xff"[..]));
        assert_eq!(refused, Err(TextError::NotUtf8));
        let refused = codec.decode_eof(&mut BytesMut::from("abc"));
        assert_eq!(refused, Err(TextError::TooLong { limit: 2 }));
        let refused = codec.decode(&mut BytesMut::from("a"));
        assert_eq!(refused, Err(TextError::NoBoundaries));
        assert_eq!(codec.decode(&mut BytesMut::new()), Ok(None));
    }
}
