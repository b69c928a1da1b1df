//! Protocol violations of a peer on an open WebSocket.

use std::{error::Error, fmt};

use super::close::{InvalidClose, WsClose};

/// Violation of the WebSocket protocol by the peer. It is the source of
/// [`CloseReason::Protocol`](crate::CloseReason::Protocol) if this side detected it. The
/// session closes with the code from [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WsError {
    /// A frame violates the protocol. The code is 1002.
    Protocol(&'static str),
    /// The text of a message or of a close frame is not UTF-8. The code is 1007.
    NotUtf8,
    /// A compressed message is not valid deflate data. The code is 1007.
    InvalidDeflate,
    /// A frame or a message exceeds the maximum. The code is 1009. `WsLayer::with_max_message` and
    /// `WsLayer::with_max_frame` set the maximum.
    TooLong {
        /// The maximum in bytes.
        limit: usize,
    },
    /// A text message where only binary ones are accepted, as by
    /// [`WsLayer::as_stream`](super::WsLayer::as_stream). The code is 1003.
    TextRefused,
    /// The connection ended without a close frame. The code is 1006, which is never sent.
    Truncated,
}

impl WsError {
    /// Returns the code that the session closes with.
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::Protocol(_) => WsClose::PROTOCOL_ERROR,
            Self::NotUtf8 | Self::InvalidDeflate => WsClose::INVALID_DATA,
            Self::TooLong { .. } => WsClose::TOO_BIG,
            Self::TextRefused => WsClose::UNSUPPORTED,
            Self::Truncated => WsClose::ABNORMAL,
        }
    }

    /// Returns the close frame for the error.
    pub(super) fn close(self) -> WsClose {
        WsClose::new(
            self.close_code(),
            match self {
                Self::Protocol(what) => what,
                Self::NotUtf8 => "not UTF-8",
                Self::InvalidDeflate => "bad compressed data",
                Self::TooLong { .. } => "message too long",
                Self::TextRefused => "text is not accepted",
                Self::Truncated => "connection ended without a close frame",
            },
        )
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(what) => write!(f, "the peer violated the WebSocket protocol: {what}"),
            Self::NotUtf8 => f.write_str("text from the peer is not UTF-8"),
            Self::InvalidDeflate => {
                f.write_str("a compressed message from the peer is not valid deflate data")
            }
            Self::TooLong { limit } => write!(
                f,
                "message or frame from the peer exceeds the maximum of {limit} bytes"
            ),
            Self::TextRefused => {
                f.write_str("the peer has sent a text message, and only binary ones are accepted")
            }
            Self::Truncated => f.write_str("the connection ended without a close frame"),
        }
    }
}

impl Error for WsError {}

impl From<InvalidClose> for WsError {
    fn from(error: InvalidClose) -> Self {
        match error {
            InvalidClose::TruncatedCode => Self::Protocol("close frame with half a code"),
            InvalidClose::Code => Self::Protocol("close frame with an invalid code"),
            InvalidClose::NotUtf8 => Self::NotUtf8,
        }
    }
}
