//! Lines of UTF-8 text.
//!
//! In a stack it is given to `CodecLayer`. Scope: session; each connection's clone remembers how far it has searched,
//! so that a line which arrives in small pieces is not searched again and again.
//!
//! A line ends with a line feed, and a carriage return before that belongs to the end. The last line of a stream needs
//! no end. A message of a message transport is one line, with its end or without; what is sent has its end there, too,
//! which a page or a game that receives it has to trim. Where no stream is served beside, [`Text`](super::Text) has none.
//!
//! ```
//! use bytes::BytesMut;
//! use getty::codec::{Decoder, Encoder, Lines, LinesError};
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
}

impl Lines {
    /// At most 64 KiB a line; sent lines end with a line feed alone.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: MAX_FRAME,
            searched: 0,
            crlf: false,
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
    /// What is received may end either way.
    #[must_use]
    pub const fn with_crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// How long a line may be.
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
        let line = text(without_carriage_return(src));
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
            Self::TooLong { .. } | Self::Newline { .. } => None,
        }
    }
}

impl From<io::Error> for LinesError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::testing::*, *};

    fn decode_all(codec: &mut Lines, stream: &[u8]) -> (Vec<String>, Option<LinesError>) {
        decode_stream(codec, stream, &[stream.len().max(1)])
    }

    #[test]
    fn line_of_the_maximum_passes_with_either_end_and_with_none() {
        for stream in ["12345\n", "12345\r\n", "12345\r", "12345"] {
            for piece in 1..=stream.len() {
                let codec = &mut Lines::new().with_max_length(5);
                let (lines, error) = decode_stream(codec, stream.as_bytes(), &[piece]);
                assert_eq!(lines, ["12345"], "{stream:?}");
                assert!(error.is_none(), "{stream:?}");
            }
        }
    }

    #[test]
    fn line_over_the_maximum_is_an_error_before_its_end_arrives() {
        for stream in ["123456", "12345\r6", "12345\r\r", "123456\n", "123456\r\n"] {
            for piece in 1..=stream.len() {
                let codec = &mut Lines::new().with_max_length(5);
                let (lines, error) = decode_stream(codec, stream.as_bytes(), &[piece]);
                assert!(lines.is_empty(), "{stream:?}");
                let Some(LinesError::TooLong { length, max: 5 }) = error else {
                    panic!("{stream:?}: {error:?}");
                };
                assert!((6..=7).contains(&length), "{stream:?}: {length}");
            }
        }
    }

    #[test]
    fn error_says_how_long_the_line_is_and_not_how_full_the_buffer() {
        let (_, error) = decode_all(
            &mut Lines::new().with_max_length(2),
            b"1234\r\nmore\nlines\n",
        );
        assert_eq!(
            error.unwrap().to_string(),
            "line of at least 4 bytes, where 2 are allowed"
        );
    }

    #[test]
    fn maximum_of_zero_passes_empty_lines_only() {
        let codec = &mut Lines::new().with_max_length(0);
        let (lines, error) = decode_all(codec, b"\n\r\n\nx");
        assert_eq!(lines, ["", "", ""]);
        assert!(matches!(
            error,
            Some(LinesError::TooLong { length: 1, max: 0 })
        ));
    }

    #[test]
    fn bad_utf8_is_an_error_with_its_source_and_the_next_line_is_intact() {
        let mut buffer = BytesMut::from(&b"caf\xe9\nnext\n"[..]);
        let mut codec = Lines::new();
        let error = codec.decode(&mut buffer).unwrap_err();
        assert!(matches!(error, LinesError::Utf8 { length: 4, .. }));
        assert!(error.source().unwrap().is::<Utf8Error>());
        assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "next");
    }

    #[test]
    fn refused_message_does_not_disturb_the_next_one() {
        let mut codec = Lines::new().with_max_length(5);
        for refused in [&b"too long"[..], b"ab\xff"] {
            let mut datagram = BytesMut::from(refused);
            codec.decode_eof(&mut datagram).unwrap_err();
            let mut next = BytesMut::from("fine");
            assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "fine");
        }
    }

    #[test]
    fn message_without_a_line_end_does_not_hide_those_of_the_next_one() {
        let mut codec = Lines::new();
        let mut first = BytesMut::from("no end");
        assert_eq!(codec.decode_eof(&mut first).unwrap().unwrap(), "no end");
        let mut next = BytesMut::from("two\nlines");
        assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "two");
        assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "lines");
    }

    #[test]
    fn message_with_a_line_feed_is_refused_and_leaves_no_bytes() {
        let mut sent = BytesMut::from("before\n");
        let error = Lines::new().encode("one\ntwo", &mut sent).unwrap_err();
        assert_eq!(error.to_string(), "message contains a line feed at byte 3");
        let too_long = Lines::new()
            .with_max_length(3)
            .encode("four", &mut sent)
            .unwrap_err();
        assert!(matches!(
            too_long,
            LinesError::TooLong { length: 4, max: 3 }
        ));
        assert_eq!(sent, "before\n");
    }

    #[test]
    fn crlf_is_sent_where_it_is_asked_for() {
        let mut sent = BytesMut::new();
        let mut codec = Lines::new().with_crlf();
        codec.encode("NICK getty", &mut sent).unwrap();
        assert_eq!(sent, "NICK getty\r\n");
    }

    #[test]
    fn ordinary_line_reserves_nothing() {
        let mut buffer = BytesMut::with_capacity(100);
        buffer.extend_from_slice(&[b'x'; 90]);
        assert_eq!(Lines::new().decode(&mut buffer).unwrap(), None);
        assert_eq!(buffer.capacity(), 100);
    }

    /// As a session reads: its buffer grows to 64 KiB at most, unless the decoder grows it, which it may once a frame.
    fn read_as_a_session_does(codec: &mut Lines, mut stream: &[u8], chunk: usize) -> String {
        let mut buffer = BytesMut::with_capacity(MAX_FRAME / 8);
        let mut reserved = false;
        loop {
            if buffer.len() == buffer.capacity() {
                let room = MAX_FRAME.saturating_sub(buffer.len());
                assert!(room > 0, "stuck at {} bytes", buffer.len());
                buffer.reserve(room.min(MAX_FRAME / 8));
            }
            let room = buffer.capacity() - buffer.len();
            let (piece, later) = stream.split_at(room.min(chunk).min(stream.len()));
            buffer.extend_from_slice(piece);
            stream = later;
            let before = buffer.capacity();
            if let Some(line) = codec.decode(&mut buffer).unwrap() {
                return line;
            }
            if buffer.capacity() > before {
                assert!(!reserved, "a second reservation");
                reserved = true;
            }
        }
    }

    #[test]
    fn line_longer_than_the_read_ahead_bound_fits_after_one_reservation() {
        for max in [MAX_FRAME, 100_000, 1 << 20] {
            let stream = ["x".repeat(max), "\r\n".to_owned()].concat();
            for chunk in [1_000, 40_000, 65_536] {
                let codec = &mut Lines::new().with_max_length(max);
                let line = read_as_a_session_does(codec, stream.as_bytes(), chunk);
                assert_eq!(line.len(), max);
            }
        }
    }

    /// What a codec without any state makes of a whole stream.
    fn model(stream: &[u8], max: usize) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let mut ends = stream.split(|&byte| byte == b'\n').peekable();
        while let Some(line) = ends.next() {
            if ends.peek().is_none() && line.is_empty() {
                break;
            }
            match str::from_utf8(without_carriage_return(line)) {
                Ok(line) if line.len() <= max => lines.push(line.to_owned()),
                _ => return (lines, true),
            }
        }
        (lines, false)
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_decode_like_the_whole_stream(
            stream in vec(prop_oneof![
                4 => Just(b'a'), 1 => Just(b'\r'), 2 => Just(b'\n'), 1 => Just(0xc3), 1 => Just(0xa9), 1 => any::<u8>(),
            ], 0..120),
            pieces in pieces(),
            max in 0_usize..12,
        ) {
            let codec = &mut Lines::new().with_max_length(max);
            let (lines, error) = decode_stream(codec, &stream, &pieces);
            prop_assert_eq!((lines, error.is_some()), model(&stream, max));
        }

        #[test]
        fn sent_lines_arrive_as_they_were(
            lines in vec("[^\n]{0,20}", 0..8), crlf in any::<bool>(), pieces in pieces(),
        ) {
            let mut codec = if crlf { Lines::new().with_crlf() } else { Lines::new() };
            let mut sent = BytesMut::new();
            for line in &lines {
                codec.encode(line, &mut sent).unwrap();
            }
            let (received, error) = decode_stream(&mut codec, &sent, &pieces);
            prop_assert!(error.is_none());
            let expected: Vec<_> = lines
                .iter()
                .map(|line| if crlf { line } else { line.strip_suffix('\r').unwrap_or(line) })
                .collect();
            prop_assert_eq!(received, expected);
        }

        #[test]
        fn whatever_is_decoded_can_be_encoded(stream in vec(any::<u8>(), 0..100)) {
            let mut codec = Lines::new().with_max_length(20);
            let (lines, _) = decode_all(&mut codec.clone(), &stream);
            for line in lines {
                codec.encode(line, &mut BytesMut::new()).unwrap();
            }
        }
    }
}
