//! Errors of messages that are too long for the read buffer, for their frame or for the
//! transport.

use std::{error::Error, fmt};

use tower::BoxError;

/// The error when the codec found no message in a full read buffer.
///
/// It is the source of [`CloseReason::Decode`](getty_core::CloseReason::Decode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameTooLong {
    /// Number of bytes that the buffer held.
    pub limit: usize,
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no frame within {} bytes; `CodecLayer::with_max_frame` sets the bound for codecs that reserve no room",
            self.limit
        )
    }
}

impl Error for FrameTooLong {}

/// The error when a message of a message transport was longer than its decoded part.
///
/// It is the source of [`CloseReason::Decode`](getty_core::CloseReason::Decode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftoverBytes {
    /// Number of bytes behind the decoded part.
    pub bytes: usize,
}

impl fmt::Display for LeftoverBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes left over after the message", self.bytes)
    }
}

impl Error for LeftoverBytes {}

/// The error when an encoded message is longer than the transport can carry. No part of the
/// message was sent.
///
/// It is the source of [`SendError::Encode`](crate::SendError::Encode). It is also the source
/// of [`CloseReason::Encode`](crate::CloseReason::Encode), if no task awaited the message and
/// bad messages are not skipped. Split the message or send it over a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageTooLong {
    /// Encoded size of the message, in bytes.
    pub bytes: usize,
    /// Maximum size of a message of the transport, in bytes.
    pub limit: usize,
}

impl MessageTooLong {
    #[cold]
    pub(crate) fn boxed(bytes: usize, limit: usize) -> BoxError {
        Box::new(Self { bytes, limit })
    }
}

impl fmt::Display for MessageTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit } = self;
        write!(
            f,
            "a message of {bytes} bytes, and the transport carries {limit} at most"
        )
    }
}

impl Error for MessageTooLong {}
