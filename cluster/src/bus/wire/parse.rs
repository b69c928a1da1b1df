//! Operations that a server of NATS sends.

use std::{error::Error, fmt};

/// Longest line of an operation, in bytes. `INFO` has all servers of a cluster.
const MAX_LINE: usize = 256 * 1024;

/// Operation of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Message(Message<'a>),
    Ping,
    Pong,
    Ok,
    Info(&'a [u8]),
    Error(&'a [u8]),
}

/// A message, and where its payload is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) subject: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Bytes that are no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    Line,
    Unknown,
    Arguments,
    TooLong,
    End,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "a line from NATS is too long",
            Self::Unknown => "an operation from NATS is unknown",
            Self::Arguments => "a message from NATS has invalid arguments",
            Self::TooLong => "a message from NATS is too long",
            Self::End => "a message from NATS has no end",
        })
    }
}

impl Error for ParseError {}

/// Reads the operation at the start of `bytes`. Returns the operation and its length, or `None`
/// if a part is missing.
pub(super) fn parse(
    bytes: &[u8],
    max_message: usize,
) -> Result<Option<(Operation<'_>, usize)>, ParseError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() > MAX_LINE {
            Err(ParseError::Line)
        } else {
            Ok(None)
        };
    };
    let line = &bytes[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let end = end + 1;
    if let Some(arguments) = line.strip_prefix(b"MSG ") {
        return message(bytes, arguments, end, false, max_message);
    }
    if let Some(arguments) = line.strip_prefix(b"HMSG ") {
        return message(bytes, arguments, end, true, max_message);
    }
    let operation = match line {
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        _ if line.starts_with(b"+OK") => Operation::Ok,
        _ => match (line.strip_prefix(b"INFO "), line.strip_prefix(b"-ERR")) {
            (Some(info), _) => Operation::Info(info),
            (_, Some(error)) => Operation::Error(error.trim_ascii()),
            _ => return Err(ParseError::Unknown),
        },
    };
    Ok(Some((operation, end)))
}

/// Reads `<subject> <sid> [reply] [length of headers] <length>`. `start` is the end of the
/// line.
fn message<'a>(
    bytes: &[u8],
    arguments: &'a [u8],
    start: usize,
    has_headers: bool,
    max: usize,
) -> Result<Option<(Operation<'a>, usize)>, ParseError> {
    let invalid = ParseError::Arguments;
    let arguments = str::from_utf8(arguments).map_err(|_| invalid)?;
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    let subject = words.next().ok_or(invalid)?;
    // The last words are lengths.
    let mut words = words.rev();
    let mut length = || words.next().and_then(number).ok_or(invalid);
    let len = length()?;
    let headers = if has_headers { length()? } else { 0 };
    // A subscription, and perhaps a subject for replies.
    if !(1..=2).contains(&words.count()) || headers > len {
        return Err(invalid);
    }
    if len > max {
        return Err(ParseError::TooLong);
    }
    let end = start + len;
    match bytes.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => {
            let message = Message {
                subject,
                start: start + headers,
                end,
            };
            Ok(Some((Operation::Message(message), end + 2)))
        }
        Some(_) => Err(ParseError::End),
    }
}

/// Reads a number that consists of digits. Such a length fits into a `usize` if it is not
/// absurd.
fn number(word: &str) -> Option<usize> {
    word.bytes().try_fold(0_usize, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let number = number.checked_mul(10)?.checked_add(usize::from(digit))?;
        (digit < 10).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1024;

    fn payload(bytes: &[u8]) -> (&str, &[u8], usize) {
        match parse(bytes, MAX) {
            Ok(Some((Operation::Message(message), len))) => {
                (message.subject, &bytes[message.start..message.end], len)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn operations_of_a_server_are_read() {
        let read = |bytes: &'static [u8]| parse(bytes, MAX).unwrap().unwrap();
        assert_eq!(read(b"PING\r\nPONG\r\n"), (Operation::Ping, 6));
        assert_eq!(read(b"PONG\r\n"), (Operation::Pong, 6));
        assert_eq!(read(b"+OK\r\n"), (Operation::Ok, 5));
        assert_eq!(read(b"INFO {}\r\n"), (Operation::Info(b"{}"), 9));
        let error = Operation::Error(b"'Permissions Violation'");
        assert_eq!(read(b"-ERR 'Permissions Violation'\r\n"), (error, 30));
        assert_eq!(
            payload(b"MSG a.b 7 5\r\nhello\r\nPING"),
            ("a.b", &b"hello"[..], 20)
        );
        assert_eq!(payload(b"MSG a.b 7 reply 0\r\n\r\n"), ("a.b", &b""[..], 21));
        let with_headers = b"HMSG a 7 12 17\r\nNATS/1.0\r\n\r\nhello\r\n";
        assert_eq!(payload(with_headers), ("a", &b"hello"[..], 35));
        let with_reply = b"HMSG a 7 r 12 12\r\nNATS/1.0\r\n\r\n\r\n";
        assert_eq!(payload(with_reply), ("a", &b""[..], 32));
    }

    #[test]
    fn part_of_an_operation_is_none() {
        let whole = b"MSG a.b 7 5\r\nhello\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end], MAX), Ok(None), "{end}");
        }
    }

    #[test]
    fn other_bytes_are_errors() {
        let error = |bytes: &[u8]| parse(bytes, MAX).unwrap_err();
        assert_eq!(error(b"HTTP/1.1 400\r\n"), ParseError::Unknown);
        assert_eq!(error(b"\r\n"), ParseError::Unknown);
        for arguments in [
            "a",
            "a 7",
            "a 7 r s 5",
            "a 7 -5",
            "a 7 +5",
            "a 7 5x",
            "a 7 99999999999999999999999",
        ] {
            let line = format!("MSG {arguments}\r\nhello\r\n");
            assert_eq!(error(line.as_bytes()), ParseError::Arguments, "{line}");
        }
        assert_eq!(error(b"HMSG a 7 6 5\r\nhello\r\n"), ParseError::Arguments);
        assert_eq!(error(b"MSG \xff 7 5\r\nhello\r\n"), ParseError::Arguments);
        assert_eq!(error(b"MSG a 7 1025\r\n"), ParseError::TooLong);
        assert_eq!(error(b"MSG a 7 5\r\nhello!!\r\n"), ParseError::End);
        assert_eq!(error(&vec![b'x'; MAX_LINE + 1]), ParseError::Line);
    }

    proptest! {
        #[test]
        fn message_is_read_whatever_its_bytes_are(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            more in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let mut bytes = format!("MSG getty.app.t.r.k 12 {}\r\n", payload.len()).into_bytes();
            let start = bytes.len();
            bytes.extend(&payload);
            bytes.extend(b"\r\n");
            let len = bytes.len();
            bytes.extend(more);
            let message = Message { subject: "getty.app.t.r.k", start, end: start + payload.len() };
            prop_assert_eq!(parse(&bytes, MAX), Ok(Some((Operation::Message(message), len))));
        }

        #[test]
        fn any_bytes_are_an_operation_or_an_error(
            start in prop_oneof![Just(""), Just("MSG a 7 "), Just("HMSG a 7 "), Just("INFO ")],
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Ok(Some((operation, len))) = parse(&bytes, MAX) {
                prop_assert!(len <= bytes.len());
                if let Operation::Message(message) = operation {
                    prop_assert!(message.start <= message.end && message.end + 2 == len);
                }
            }
        }
    }
}
