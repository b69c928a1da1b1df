//! Errors of a client's connect.

use std::{error::Error, fmt};

use http::{HeaderMap, StatusCode};
use tower::BoxError;

use crate::ws::handshake::WsHandshakeError;

/// Returned when a client's connect fails.
#[derive(Debug)]
#[non_exhaustive]
pub enum WsConnectError {
    /// The URL is not valid for a WebSocket. Nothing was connected.
    Url(BoxError),
    /// The connector failed. Its error is the source.
    Connect(BoxError),
    /// The URL is a `wss://` one, and the connector does not use TLS. Nothing was sent.
    NotSecure,
    /// The server refused or redirected. The status and the header fields contain its reason, and
    /// possibly the new location or the time for a retry.
    Refused {
        /// Status of the response.
        status: StatusCode,
        /// Header fields of the response.
        headers: Box<HeaderMap>,
    },
    /// The response does not fit the request. The server does not speak WebSocket.
    InvalidResponse(&'static str),
    /// The handshake was not completed. It timed out, was cut off, or was not HTTP.
    Handshake(WsHandshakeError),
}

impl fmt::Display for WsConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(_) => f.write_str("invalid WebSocket URL"),
            Self::Connect(_) => f.write_str("the connector failed"),
            Self::NotSecure => f.write_str("a wss:// URL requires a connector that uses TLS"),
            Self::Refused { status, .. } => write!(f, "the server refused with {status}"),
            Self::InvalidResponse(what) => write!(f, "invalid response from the server: {what}"),
            Self::Handshake(_) => f.write_str("the WebSocket handshake was not completed"),
        }
    }
}

impl Error for WsConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Url(source) | Self::Connect(source) => Some(&**source),
            Self::Handshake(source) => Some(source),
            Self::NotSecure | Self::Refused { .. } | Self::InvalidResponse(_) => None,
        }
    }
}

impl From<WsHandshakeError> for WsConnectError {
    fn from(error: WsHandshakeError) -> Self {
        Self::Handshake(error)
    }
}
