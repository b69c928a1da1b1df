//! The Redis protocol, version 2: commands as arrays of strings or as lines, and replies.

use std::{
    fmt::{self, Write},
    io,
    ops::Range,
    str,
};

use bytes::{BufMut, Bytes, BytesMut};
use getty::{
    Session,
    codec::{Decoder, Encoder},
    handler::{Keyed, NoCase},
};

/// Maximum size of a command, in bytes. A longer command closes the session.
const MAX_COMMAND: usize = 1024 * 1024;
/// Length of an incomplete command for which room for the longest one is reserved.
const LONG_COMMAND: usize = 32 * 1024;
/// Maximum number of words of a command.
const MAX_WORDS: usize = 1024;

/// A command: its name and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) name: NoCase,
    pub(crate) arguments: Vec<Bytes>,
}

impl Keyed for Command {
    type Key = NoCase;

    fn key(&self) -> &NoCase {
        &self.name
    }
}

impl Command {
    /// Returns the arguments, or an error for the client if they are not `N`.
    pub(crate) fn arguments<const N: usize>(self) -> Result<[Bytes; N], Value> {
        let Self { name, arguments } = self;
        <[Bytes; N]>::try_from(arguments).map_err(|_| Value::wrong_arguments(&name))
    }
}

/// A session with a client.
pub(crate) type Client = Session<Value>;

/// A reply, or a message that is pushed to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Status(&'static str),
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub(crate) const OK: Self = Self::Status("OK");

    /// Returns a message about a channel.
    pub(crate) fn push(kind: &'static str, channel: &Bytes, value: impl Into<Self>) -> Self {
        let kind = Self::Bulk(Bytes::from_static(kind.as_bytes()));
        Self::Array(vec![kind, Self::Bulk(channel.clone()), value.into()])
    }

    pub(crate) fn wrong_arguments(name: &NoCase) -> Self {
        Self::Error(format!(
            "ERR wrong number of arguments for '{name}' command"
        ))
    }

    fn write(&self, dst: &mut BytesMut) -> fmt::Result {
        match self {
            Self::Status(text) => write!(dst, "+{text}\r\n"),
            // The text may quote the client, and a line end in it would begin another reply.
            Self::Error(text) => write!(dst, "-{}\r\n", text.replace(['\r', '\n'], " ")),
            Self::Integer(number) => write!(dst, ":{number}\r\n"),
            Self::Bulk(bytes) => {
                write!(dst, "${}\r\n", bytes.len())?;
                dst.put_slice(bytes);
                dst.write_str("\r\n")
            }
            Self::Nil => dst.write_str("$-1\r\n"),
            Self::Array(values) => {
                write!(dst, "*{}\r\n", values.len())?;
                values.iter().try_for_each(|value| value.write(dst))
            }
        }
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bulk(bytes)
    }
}

impl From<Option<Bytes>> for Value {
    fn from(bytes: Option<Bytes>) -> Self {
        bytes.map_or(Self::Nil, Self::Bulk)
    }
}

/// Decodes commands and encodes values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resp;

impl Decoder for Resp {
    type Item = Command;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Command>> {
        loop {
            let mut reader = Reader { src, at: 0 };
            let words = match reader.src.first() {
                None => return Ok(None),
                Some(b'*') => reader.array()?,
                Some(_) => reader.inline()?,
            };
            let Some(words) = words else {
                if src.len() > MAX_COMMAND {
                    return Err(invalid("too big request"));
                }
                // A session buffers 64 KiB of a command that reserves no room.
                if src.len() >= LONG_COMMAND {
                    src.reserve(MAX_COMMAND + 1 - src.len());
                }
                return Ok(None);
            };
            let end = reader.at;
            let frame = src.split_to(end).freeze();
            let mut words = words.into_iter().map(|word| frame.slice(word));
            // an empty line or array is no command and has no reply
            if let Some(name) = words.next() {
                return Ok(Some(Command {
                    name: NoCase(name),
                    arguments: words.collect(),
                }));
            }
        }
    }
}

impl Encoder<Value> for Resp {
    type Error = io::Error;

    fn encode(&mut self, value: Value, dst: &mut BytesMut) -> io::Result<()> {
        value.write(dst).map_err(io::Error::other)
    }
}

/// Finds the words of the first command in `src`. A method returns `None` if it is incomplete.
struct Reader<'a> {
    src: &'a [u8],
    at: usize,
}

type Words = Vec<Range<usize>>;

impl Reader<'_> {
    fn array(&mut self) -> io::Result<Option<Words>> {
        let Some(count) = self.number(b'*', MAX_WORDS, "invalid multibulk length")? else {
            return Ok(None);
        };
        let mut words = Words::with_capacity(count);
        for _ in 0..count {
            let Some(length) = self.number(b'$', MAX_COMMAND, "invalid bulk length")? else {
                return Ok(None);
            };
            let word = self.at..self.at + length;
            // the word and its line end
            self.at = word.end + 2;
            if self.at > self.src.len() {
                return Ok(None);
            }
            if self.src[word.end..self.at] != *b"\r\n" {
                return Err(invalid("a string without its line end"));
            }
            words.push(word);
        }
        Ok(Some(words))
    }

    /// Reads a line of words between spaces, as a person types it.
    fn inline(&mut self) -> io::Result<Option<Words>> {
        let Some(line) = self.line() else {
            return Ok(None);
        };
        let words = self.src[line.clone()].split(|&byte| byte == b' ');
        let mut start = line.start;
        let words: Words = words
            .map(|word| {
                let range = start..start + word.len();
                start = range.end + 1;
                range
            })
            .filter(|range| !range.is_empty())
            .collect();
        if words.len() > MAX_WORDS {
            return Err(invalid("too many words"));
        }
        Ok(Some(words))
    }

    /// Reads a line such as `*3`.
    fn number(&mut self, kind: u8, max: usize, error: &str) -> io::Result<Option<usize>> {
        let Some(line) = self.line() else {
            return Ok(None);
        };
        let digits = self.src[line].strip_prefix(&[kind]);
        digits
            .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok())
            .filter(|&number| number <= max)
            .map(Some)
            .ok_or_else(|| invalid(error))
    }

    /// Returns the next line without its line end.
    fn line(&mut self) -> Option<Range<usize>> {
        let rest = &self.src[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n')?;
        let start = self.at;
        self.at += length + 1;
        let end = start + length;
        let has_return = self.src[start..end].ends_with(b"\r");
        Some(start..end - usize::from(has_return))
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("Protocol error: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> io::Result<Vec<Vec<Bytes>>> {
        let mut src = BytesMut::from(bytes);
        let mut commands = Vec::new();
        while let Some(Command { name, arguments }) = Resp.decode(&mut src)? {
            commands.push([vec![name.0], arguments].concat());
        }
        Ok(commands)
    }

    #[test]
    fn command_is_an_array_or_a_line() {
        let commands = decoded(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\n*0\r\n set  a b\r\nPING\n");
        let expected = [&["GET", "a"][..], &["set", "a", "b"], &["PING"]];
        assert_eq!(commands.expect("valid commands"), expected);
    }

    #[test]
    fn incomplete_command_waits_for_the_rest() {
        let whole = b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(decoded(&whole[..end]).expect("a beginning"), [[""; 0]; 0]);
        }
        assert_eq!(decoded(whole).expect("a command"), [["ECHO", "\r\n\r\n"]]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        for bytes in [
            "*x\r\n",
            "*1025\r\n",
            "*1\r\nPING\r\n",
            "*1\r\n$1\r\nabc",
            "*1\r\n$1048577\r\n",
        ] {
            assert!(decoded(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        assert!(decoded(&[b'a'; MAX_COMMAND + 1]).is_err());
    }

    #[test]
    fn session_reserves_room_for_a_long_command() {
        let mut src = BytesMut::from(&b"*2\r\n$4\r\nECHO\r\n$1000000\r\n"[..]);
        src.resize(LONG_COMMAND, b'x');
        assert!(Resp.decode(&mut src).expect("a beginning").is_none());
        assert!(src.capacity() > MAX_COMMAND);
    }

    #[test]
    fn error_that_quotes_a_line_end_is_one_reply() {
        let mut dst = BytesMut::new();
        let quoted = Value::Error("ERR unknown command 'x\r\n+OK'".to_owned());
        Resp.encode(quoted, &mut dst).expect("it cannot fail");
        assert_eq!(dst.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }

    #[test]
    fn value_is_encoded_with_its_kind() {
        let values = vec![
            Value::OK,
            Value::Error("ERR\r\nno".to_owned()),
            Value::Integer(-7),
            Bytes::from("hi").into(),
            Value::Nil,
        ];
        let mut dst = BytesMut::new();
        Resp.encode(Value::Array(values), &mut dst)
            .expect("it cannot fail");
        assert_eq!(dst, "*5\r\n+OK\r\n-ERR  no\r\n:-7\r\n$2\r\nhi\r\n$-1\r\n");
    }
}
