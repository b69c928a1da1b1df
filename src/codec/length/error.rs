//! Why a frame is refused, received or to be sent.

use std::{error::Error, fmt, io};

#[cfg(doc)]
use super::Length;
use super::settings::FieldWidth;

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
