//! What a peer may do wrong on an open WebSocket.

use std::{error::Error, fmt};

use super::WsClose;

/// What the peer did wrong: the source of [`CloseReason::Protocol`](crate::CloseReason::Protocol) when it was this side
/// that found out. The session is closed with the code that [`close_code`](Self::close_code) gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WsError {
    /// It did what the protocol does not allow; closes with 1002.
    Protocol(&'static str),
    /// A text message, or the text of a close frame, was not UTF-8; closes with 1007.
    NotUtf8,
    /// A frame or a message was longer than so many bytes; closes with 1009. `WsLayer::with_max_message` and
    /// `WsLayer::with_max_frame` set the bound.
    TooLong {
        /// The bound.
        limit: usize,
    },
    /// The connection ended without a close frame. It is told as code 1006, which is never sent.
    Truncated,
}

impl WsError {
    /// The code that a session closes with because of this.
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::Protocol(_) => WsClose::PROTOCOL_ERROR,
            Self::NotUtf8 => WsClose::INVALID_DATA,
            Self::TooLong { .. } => WsClose::TOO_BIG,
            Self::Truncated => WsClose::ABNORMAL,
        }
    }

    /// The close that follows.
    pub(super) fn close(self) -> WsClose {
        WsClose::new(
            self.close_code(),
            match self {
                Self::Protocol(what) => what,
                Self::NotUtf8 => "not UTF-8",
                Self::TooLong { .. } => "message too long",
                Self::Truncated => "connection ended without a close frame",
            },
        )
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(what) => write!(f, "the peer broke the WebSocket protocol: {what}"),
            Self::NotUtf8 => f.write_str("text from the peer is not UTF-8"),
            Self::TooLong { limit } => {
                write!(
                    f,
                    "the peer sent a message or frame of more than {limit} bytes"
                )
            }
            Self::Truncated => f.write_str("the connection ended without a close frame"),
        }
    }
}

impl Error for WsError {}
