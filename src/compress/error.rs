//! Errors of compressed input.

use std::{error::Error, fmt};

/// Source of [`CloseReason::Decode`](crate::CloseReason::Decode) when a peer's bytes inflate
/// beyond the [limit](super::CompressionLayer::with_max_ratio).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InflateBomb {
    /// Number of bytes that the session has received and inflated.
    pub plain: u64,
    /// Number of compressed bytes that they were inflated from.
    pub compressed: u64,
}

impl fmt::Display for InflateBomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, compressed } = self;
        write!(
            f,
            "{compressed} compressed bytes were inflated to {plain} bytes, which exceeds the limit"
        )
    }
}

impl Error for InflateBomb {}

/// Source of [`CloseReason::Decode`](crate::CloseReason::Decode) when a peer's bytes are not in
/// the format of the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InflateError {
    /// The bytes are not in this format, or a checksum is wrong. The peer may send another format
    /// or none.
    Corrupt {
        /// Name of the format, such as `deflate`.
        format: &'static str,
    },
    /// A block announces more bytes than the format permits, or a window above the maximum.
    TooLarge {
        /// Name of the format.
        format: &'static str,
    },
    /// Bytes follow the final block of the stream.
    AfterEnd,
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { format } => write!(f, "received bytes are not valid {format}"),
            Self::TooLarge { format } => {
                write!(f, "received {format} requires more memory than allowed")
            }
            Self::AfterEnd => f.write_str("received bytes after the end of the compressed stream"),
        }
    }
}

impl Error for InflateError {}
