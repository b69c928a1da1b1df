//! What could not be decoded: too long for the read buffer, or longer than its message.

use std::{error::Error, fmt};

/// The source of [`CloseReason::Decode`](getty_core::CloseReason::Decode) when the read buffer was full and the codec
/// had found no message in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameTooLong {
    /// How many bytes the buffer held.
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

/// The source of [`CloseReason::Decode`](getty_core::CloseReason::Decode) when a message of a message transport was
/// longer than what the codec decoded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftoverBytes {
    /// How many bytes were left.
    pub bytes: usize,
}

impl fmt::Display for LeftoverBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes left over after the message", self.bytes)
    }
}

impl Error for LeftoverBytes {}
