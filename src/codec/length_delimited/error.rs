//! Errors of length-delimited frames.

use std::{error::Error, fmt, io};

#[cfg(doc)]
use super::LengthDelimited;
use super::field_width::FieldWidth;

/// Returned when a frame cannot be decoded or encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum LengthDelimitedError {
    /// A payload exceeds the maximum. The peer may speak another protocol, or
    /// [`max_frame_length`](LengthDelimited::max_frame_length) may be too low.
    TooLong {
        /// Length of the payload in bytes. For a received frame, the length in its header.
        length: u64,
        /// The maximum in bytes.
        max: usize,
    },
    /// A frame ends before its length field does. For a received frame, the header or the settings
    /// are wrong. A message to send must contain the part of the header that
    /// [`num_skip`](LengthDelimited::num_skip) does not remove.
    TooShort {
        /// Length of the whole frame in bytes.
        length: usize,
        /// Length in bytes of the header up to the end of the length field.
        header: usize,
    },
    /// The adjusted value of a received length field is negative or exceeds 64 bits.
    OutOfRange {
        /// Value of the field.
        field: u64,
        /// The adjustment that is added to the field.
        adjustment: i32,
    },
    /// The length of a message minus the adjustment does not fit the length field. The message must
    /// be shorter, or the field must be wider. With a positive adjustment the message must be
    /// longer.
    NotExpressible {
        /// Length of the message in bytes.
        length: usize,
        /// The adjustment that the receiver adds to the field.
        adjustment: i32,
        /// Width of the field.
        width: FieldWidth,
    },
    /// The input ended within a frame. The input is a stream or the message of a message transport.
    Truncated {
        /// Number of bytes of the frame that have arrived.
        received: usize,
        /// Number of bytes that the frame has, or the header while that is incomplete.
        expected: usize,
    },
    /// The transport failed.
    Io(io::Error),
}

impl fmt::Display for LengthDelimitedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "frame of {length} bytes exceeds the maximum of {max}")
            }
            Self::TooShort { length, header } => write!(
                f,
                "frame of {length} bytes is shorter than its header of {header}"
            ),
            Self::OutOfRange { field, adjustment } => write!(
                f,
                "length field of {field} with an adjustment of {adjustment} is out of range"
            ),
            Self::NotExpressible {
                length,
                adjustment,
                width,
            } => write!(
                f,
                "message of {length} bytes with an adjustment of {adjustment} does not fit a length field of {} bytes",
                width.bytes()
            ),
            Self::Truncated { received, expected } => {
                write!(f, "frame ended after {received} of {expected} bytes")
            }
            Self::Io(_) => f.write_str("transport failed while reading or writing frames"),
        }
    }
}

impl Error for LengthDelimitedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for LengthDelimitedError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
