//! Lines of UTF-8 text.
//!
//! In a stack it is given to `CodecLayer`. Scope: session; each connection's clone remembers how far it has searched,
//! so that a line which arrives in small pieces is not searched again and again.
//!
//! A line ends with a line feed, and a carriage return before that belongs to the end. The last
//! line of a stream needs no end by default, as with tokio-util's `LinesCodec`. A line that was
//! [cut off](Lines::with_final_newline_required) can then be mistaken for a whole one. A message of
//! a message transport is one line, with or without its end. A line that is sent has its end there
//! as well, which a page or a game that receives it has to trim. [`Text`](super::Text) adds none,
//! for stacks that serve no stream.
//!
//! ```
//! use getty::codec::{BytesMut, Decoder, Encoder, Lines, LinesError};
//!
//! # fn main() -> Result<(), LinesError> {
//! let mut codec = Lines::new().with_max_length(512);
//! let mut buffer = BytesMut::new();
//! codec.encode("hello", &mut buffer)?;
//! assert_eq!(buffer, "hello\n");
//!
//! buffer.extend_from_slice(b"world\r\nnot comp");
//! assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello");
//! assert_eq!(codec.decode(&mut buffer)?.unwrap(), "world");
//! assert_eq!(codec.decode(&mut buffer)?, None);
//!
//! // what would arrive as two lines is not sent as one
//! let refused = codec.encode("hello\nQUIT", &mut buffer);
//! assert!(matches!(refused, Err(LinesError::Newline { at: 5 })));
//! # Ok(())
//! # }
//! ```

use std::{
    error::Error,
    fmt, io,
    str::{self, Utf8Error},
};

use bytes::{Buf, BytesMut};
use memchr::memchr;

use super::{Decoder, Encoder, MAX_FRAME, clamp_max};

/// An incomplete line of so many bytes has all of its maximum reserved. It is half of what a session lets a decoder
/// gather without a reservation, so that longer lines never run into that bound, and ordinary ones never reserve.
const LONG_LINE: usize = MAX_FRAME / 2;

/// Lines of UTF-8 text, at most 64 KiB each.
///
/// # Errors
///
/// A received line that is too long or not UTF-8 is refused; after the former the rest of the stream means nothing, the
/// latter has been taken out of the buffer and the next line can be decoded.
///
/// A message that contains a line feed is refused, because it would arrive as two: text from elsewhere could smuggle in
/// commands of the protocol. All that this codec decodes it also encodes. A carriage return at the end of a message
/// is sent, and the peer will take it for part of the line's end, unless lines end [with CRLF](Self::with_crlf).
#[derive(Clone, Debug)]
pub struct Lines {
    max: usize,
    /// So many bytes of the buffer are known to hold no line feed.
    searched: usize,
    crlf: bool,
    final_newline: bool,
}

impl Lines {
    /// At most 64 KiB a line; sent lines end with a line feed alone.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: MAX_FRAME,
            searched: 0,
            crlf: false,
            final_newline: false,
        }
    }

    /// At most so many bytes a line without its end, received or sent. 64 KiB by default; more than 1 GiB is taken as
    /// 1 GiB.
    ///
    /// Memory for a whole line of the maximum is reserved when 32 KiB of a line have arrived without its end.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// Ends the lines that are sent with a carriage return and a line feed, as protocols such as SMTP and IRC want it.
    /// What is received may end either way. By default it is a line feed alone.
    #[must_use]
    pub const fn with_crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// Refuses a last line without its end, with [`LinesError::Unterminated`]. By default such a
    /// line is a message when the peer ends the stream in an orderly way.
    ///
    /// A peer may also end a stream in the middle of a line: its process was killed, or it gave up
    /// a write. Then the default decodes `PAY 100` from a `PAY 10000`. Set this where the protocol
    /// ends every line, as SMTP, IRC and Redis do. A stream that is reset, or TLS that is cut off,
    /// yields no last line with either setting.
    ///
    /// It applies to each message of a message transport as well, which then must end with a line
    /// feed.
    #[must_use]
    pub const fn with_final_newline_required(mut self) -> Self {
        self.final_newline = true;
        self
    }

    /// How long a line may be, in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }

    #[inline]
    fn next_line(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesError> {
        // the longest line has a carriage return and a line feed after it
        let limit = src.len().min(self.max + 2);
        let from = if self.searched <= limit {
            self.searched
        } else {
            0 // that was another buffer
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
        let line = text(line);
        self.searched = 0;
        src.advance(at + 1);
        line.map(Some)
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

impl Decoder for Lines {
    type Item = String;
    type Error = LinesError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesError> {
        let line = self.next_line(src)?;
        if line.is_none() && src.len() >= LONG_LINE {
            // Once and for all, because a session takes one reservation a frame. Shorter than `max + 2` it is, or there
            // would be an error instead of `None`.
            src.reserve(self.max + 2 - src.len());
        }
        Ok(line)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesError> {
        if let Some(line) = self.next_line(src)? {
            return Ok(Some(line));
        }
        self.searched = 0;
        if src.is_empty() {
            return Ok(None);
        }
        let line = if self.final_newline {
            Err(LinesError::Unterminated { length: src.len() })
        } else {
            text(without_carriage_return(src))
        };
        src.clear();
        line.map(Some)
    }
}

impl<T: AsRef<str>> Encoder<T> for Lines {
    type Error = LinesError;

    #[inline]
    fn encode(&mut self, item: T, dst: &mut BytesMut) -> Result<(), LinesError> {
        let line = item.as_ref().as_bytes();
        if line.len() > self.max {
            return Err(LinesError::TooLong {
                length: line.len(),
                max: self.max,
            });
        }
        if let Some(at) = memchr(b'\n', line) {
            return Err(LinesError::Newline { at });
        }
        let end: &[u8] = if self.crlf { b"\r\n" } else { b"\n" };
        dst.reserve(line.len() + end.len());
        dst.extend_from_slice(line);
        dst.extend_from_slice(end);
        Ok(())
    }
}

/// Why a line was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum LinesError {
    /// A line is longer than the maximum: the peer speaks another protocol, or
    /// [`with_max_length`](Lines::with_max_length) is too low.
    TooLong {
        /// How long the line is, in bytes without its end, as far as it has arrived.
        length: usize,
        /// The maximum.
        max: usize,
    },
    /// A received line is not UTF-8.
    Utf8 {
        /// How long the line is, in bytes without its end.
        length: usize,
        /// Where it goes wrong.
        source: Utf8Error,
    },
    /// The stream, or the message of a message transport, ended within a line although lines [must
    /// have their end](Lines::with_final_newline_required).
    Unterminated {
        /// The number of bytes after the last line's end.
        length: usize,
    },
    /// A message to send contains a line feed and would arrive as two. Send its lines one by one, or escape the line
    /// feed as the protocol says.
    Newline {
        /// Where in the message, in bytes.
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
                    "line of at least {length} bytes, where {max} are allowed"
                )
            }
            Self::Utf8 { length, .. } => write!(f, "line of {length} bytes is not text"),
            Self::Unterminated { length } => {
                write!(
                    f,
                    "stream or message ended after {length} bytes of a line without its end"
                )
            }
            Self::Newline { at } => write!(f, "message contains a line feed at byte {at}"),
            Self::Io(_) => f.write_str("transport failed while lines were read or written"),
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
