//! Lines of UTF-8 text.

use std::{
    error::Error,
    fmt, io,
    str::{self, Utf8Error},
};

use bytes::{Buf, BytesMut};
use memchr::memchr;

use super::{DEFAULT_MAX_FRAME, Decoder, Encoder, FrameCodec, FrameLimit, clamp_max};

/// Length in bytes of an incomplete line for which the maximum is reserved. It is half of what
/// a session buffers without a reservation. Longer lines therefore never reach that bound, and
/// ordinary lines never reserve.
const LONG_LINE: usize = DEFAULT_MAX_FRAME / 2;

/// Codec for lines of UTF-8 text.
///
/// Pass it to `CodecLayer` in a stack. Scope: session. Each connection's clone remembers how
/// far it has searched so that a line in small pieces is searched only once.
///
/// A line ends with a line feed. A carriage return before the line feed belongs to the line
/// end. As in tokio-util's `LinesCodec`, the last line of a stream needs no line end by
/// default. A line that was [cut off](Lines::with_final_newline_required) can then be mistaken
/// for a complete one. On a message transport each message is one line, with or without a line
/// end. A line that is sent there also has its line end, which a page or a game that receives
/// it must trim. [`Text`](super::Text) adds none, for stacks that do not serve streams.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, Encoder, Lines, LinesError};
///
/// # fn main() -> Result<(), LinesError> {
/// let mut codec = Lines::new().with_max_length(512);
/// let mut buffer = BytesMut::new();
/// codec.encode("hello", &mut buffer)?;
/// assert_eq!(buffer, "hello\n");
///
/// buffer.extend_from_slice(b"world\r\nnot comp");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "world");
/// assert_eq!(codec.decode(&mut buffer)?, None);
///
/// // A message that would arrive as two lines is refused.
/// let refused = codec.encode("hello\nQUIT", &mut buffer);
/// assert!(matches!(refused, Err(LinesError::Newline { at: 5 })));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A received line that is too long or not UTF-8 is refused. After a line that is too long, the
/// rest of the stream cannot be decoded. A line that is not UTF-8 has been removed from the
/// buffer. The next line can be decoded.
///
/// A message that contains a line feed is refused because it would arrive as two lines.
/// Untrusted text could inject commands of the protocol in this way. Every line that this codec
/// decodes can be encoded. A carriage return at the end of a message is sent, and the peer will
/// treat it as part of the line end unless lines end [with CRLF](Self::with_crlf).
#[derive(Clone, Debug)]
pub struct Lines {
    max: usize,
    /// Number of bytes at the start of the buffer that contain no line feed.
    searched: usize,
    crlf: bool,
    final_newline: bool,
}

impl Lines {
    /// Creates a new codec. The maximum is 64 KiB, and lines that are sent end with a line feed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: DEFAULT_MAX_FRAME,
            searched: 0,
            crlf: false,
            final_newline: false,
        }
    }

    /// Sets the maximum length of a received or sent line without its line end, in bytes. The
    /// default is 64 KiB. A maximum above 1 GiB is reduced to 1 GiB.
    ///
    /// Once 32 KiB of a line have arrived without a line end, memory for a line of maximum length
    /// is reserved.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// Ends lines that are sent with a carriage return and a line feed, which protocols such as
    /// SMTP and IRC require. Received lines may end either way. The default is a line feed only.
    #[must_use]
    pub const fn with_crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// Refuses a last line without a line end with [`LinesError::Unterminated`]. By default such a
    /// line is a message if the peer ends the stream in an orderly way.
    ///
    /// A peer may also end a stream in the middle of a line because it was killed or gave up a
    /// write. The default then decodes `PAY 10000` as `PAY 100`. Use this setting if the protocol
    /// ends every line, as SMTP, IRC and Redis do. With either setting a stream that is reset has
    /// no last line. Neither has TLS that is cut off.
    ///
    /// The setting also applies to each message of a message transport, which must then end with a
    /// line feed.
    #[must_use]
    pub const fn with_final_newline_required(mut self) -> Self {
        self.final_newline = true;
        self
    }

    /// Returns the maximum length of a line in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }

    /// Passes the next line without its line end to `read` and removes it from the buffer.
    #[inline]
    fn next_line<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> Result<T, LinesError>,
    ) -> Result<Option<T>, LinesError> {
        // The longest line is followed by a carriage return and a line feed.
        let limit = src.len().min(self.max + 2);
        let from = if self.searched <= limit {
            self.searched
        } else {
            0 // The position belongs to another buffer.
        };
        let Some(at) = memchr(b'\n', &src[from..limit]) else {
            if limit > self.max + 1 || src.get(self.max).is_some_and(|&byte| byte != b'\r') {
                return Err(self.too_long(src));
            }
            self.searched = limit;
            return Ok(None);
        };
        let at = from + at;
        let line = without_carriage_return(&src[..at]);
        if line.len() > self.max {
            return Err(self.too_long(src));
        }
        let line = read(line);
        self.searched = 0;
        src.advance(at + 1);
        line.map(Some)
    }

    /// Does the same for a last line without a line end.
    fn last_line<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> Result<T, LinesError>,
    ) -> Result<Option<T>, LinesError> {
        self.searched = 0;
        if src.is_empty() {
            return Ok(None);
        }
        // (design.md: Why does `Lines` accept a last line without a newline?)
        let line = if self.final_newline {
            Err(LinesError::Unterminated { length: src.len() })
        } else {
            read(without_carriage_return(src))
        };
        src.clear();
        line.map(Some)
    }

    /// Reserves memory for a whole line once a long part of it has arrived.
    #[inline]
    fn reserve_long_line(&self, src: &mut BytesMut) {
        if src.len() >= LONG_LINE {
            // One reservation for the whole line because a session allows one per frame. The buffer
            // is shorter than `max + 2`; otherwise `next_line` had returned an error.
            src.reserve(self.max + 2 - src.len());
        }
    }

    const fn line_end(&self) -> &'static [u8] {
        if self.crlf { b"\r\n" } else { b"\n" }
    }

    /// Checks a line to send.
    #[inline]
    fn check(&self, line: &[u8]) -> Result<(), LinesError> {
        if line.len() > self.max {
            return Err(LinesError::TooLong {
                length: line.len(),
                max: self.max,
            });
        }
        match memchr(b'\n', line) {
            Some(at) => Err(LinesError::Newline { at }),
            None => Ok(()),
        }
    }

    #[cold]
    fn too_long(&mut self, src: &[u8]) -> LinesError {
        self.searched = 0;
        let end = memchr(b'\n', src).unwrap_or(src.len());
        LinesError::TooLong {
            length: without_carriage_return(&src[..end]).len(),
            max: self.max,
        }
    }
}

fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn text(line: &[u8]) -> Result<String, LinesError> {
    match str::from_utf8(line) {
        Ok(line) => Ok(line.to_owned()),
        Err(source) => Err(LinesError::Utf8 {
            length: line.len(),
            source,
        }),
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameLimit for Lines {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = clamp_max(bytes);
    }
}

impl Decoder for Lines {
    type Item = String;
    type Error = LinesError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesError> {
        let line = self.next_line(src, text)?;
        if line.is_none() {
            self.reserve_long_line(src);
        }
        Ok(line)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesError> {
        match self.next_line(src, text)? {
            Some(line) => Ok(Some(line)),
            None => self.last_line(src, text),
        }
    }
}

impl<T: AsRef<str>> Encoder<T> for Lines {
    type Error = LinesError;

    #[inline]
    fn encode(&mut self, item: T, dst: &mut BytesMut) -> Result<(), LinesError> {
        let line = item.as_ref().as_bytes();
        self.check(line)?;
        let end = self.line_end();
        dst.reserve(line.len() + end.len());
        dst.extend_from_slice(line);
        dst.extend_from_slice(end);
        Ok(())
    }
}

/// Reads a line without a check that it is UTF-8, which the format makes. A payload to send
/// must be UTF-8 without a line feed, which suits text formats such as JSON.
impl FrameCodec for Lines {
    #[inline]
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LinesError> {
        let line = self.next_line(src, |line| Ok(read(line)))?;
        if line.is_none() {
            self.reserve_long_line(src);
        }
        Ok(line)
    }

    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LinesError> {
        let mut read = Some(read);
        if let Some(item) = self.next_line(src, |line| Ok(read.take().map(|read| read(line))))? {
            return Ok(item);
        }
        read.map_or(Ok(None), |read| self.last_line(src, |line| Ok(read(line))))
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), LinesError> {
        let line = &dst[start..];
        self.check(line)?;
        if let Err(source) = str::from_utf8(line) {
            return Err(LinesError::Utf8 {
                length: line.len(),
                source,
            });
        }
        dst.extend_from_slice(self.line_end());
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.max
    }
}

/// Returned when a line cannot be decoded or encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum LinesError {
    /// A line exceeds the maximum. The peer may speak another protocol, or
    /// [`with_max_length`](Lines::with_max_length) may be too low.
    TooLong {
        /// Length of the received part of the line in bytes, without its line end.
        length: usize,
        /// The maximum in bytes.
        max: usize,
    },
    /// A line is not UTF-8.
    Utf8 {
        /// Length of the line without its line end in bytes.
        length: usize,
        /// Position and length of the invalid bytes.
        source: Utf8Error,
    },
    /// The input ended within a line, and lines
    /// [must have a line end](Lines::with_final_newline_required). The input is a stream or the
    /// message of a message transport.
    Unterminated {
        /// Number of bytes after the last line end.
        length: usize,
    },
    /// A message to send contains a line feed and would arrive as two lines. Send the lines one by
    /// one, or escape the line feed because the protocol requires it.
    Newline {
        /// Byte position of the line feed in the message.
        at: usize,
    },
    /// The transport failed.
    Io(io::Error),
}

impl fmt::Display for LinesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(
                    f,
                    "line of at least {length} bytes exceeds the maximum of {max}"
                )
            }
            Self::Utf8 { length, .. } => write!(f, "line of {length} bytes is not UTF-8"),
            Self::Unterminated { length } => {
                write!(
                    f,
                    "stream or message ended after {length} bytes of an unterminated line"
                )
            }
            Self::Newline { at } => write!(f, "message contains a line feed at byte {at}"),
            Self::Io(_) => f.write_str("transport failed while reading or writing lines"),
        }
    }
}

impl Error for LinesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Utf8 { source, .. } => Some(source),
            Self::Io(source) => Some(source),
            Self::TooLong { .. } | Self::Unterminated { .. } | Self::Newline { .. } => None,
        }
    }
}

impl From<io::Error> for LinesError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests;
