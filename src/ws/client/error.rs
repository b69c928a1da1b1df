//! Why a client has no WebSocket.

use std::{error::Error, fmt};

use http::{HeaderMap, StatusCode};
use tower::BoxError;

use crate::ws::WsHandshakeError;

/// Why a dial did not become a WebSocket.
#[derive(Debug)]
#[non_exhaustive]
pub enum WsConnectError {
    /// The URL is none that can be dialled; nothing was.
    Url(BoxError),
    /// The connector failed; its error is the source.
    Connect(BoxError),
    /// The URL is a `wss://` one, and the connector does not speak TLS. Nothing was sent.
    NotSecure,
    /// The server refused, or sends elsewhere: the answer's status and headers say why, and where to or when to try again.
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The headers of the answer.
        headers: Box<HeaderMap>,
    },
    /// The answer is not one to our request; whoever answered speaks no WebSocket.
    Answer(&'static str),
    /// The handshake was not completed: too late, cut off, or no HTTP.
    Handshake(WsHandshakeError),
}

impl fmt::Display for WsConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(_) => f.write_str("the URL cannot be dialled"),
            Self::Connect(_) => f.write_str("there is no connection for the WebSocket"),
            Self::NotSecure => f.write_str("a wss:// URL needs a connector that speaks TLS"),
            Self::Refused { status, .. } => write!(f, "the server refused with {status}"),
            Self::Answer(what) => write!(f, "the server's answer cannot be accepted: {what}"),
            Self::Handshake(_) => f.write_str("the handshake was not completed"),
        }
    }
}

impl Error for WsConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Url(source) | Self::Connect(source) => Some(&**source),
            Self::Handshake(source) => Some(source),
            Self::NotSecure | Self::Refused { .. } | Self::Answer(_) => None,
        }
    }
}

impl From<WsHandshakeError> for WsConnectError {
    fn from(error: WsHandshakeError) -> Self {
        Self::Handshake(error)
    }
}
