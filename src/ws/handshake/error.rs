//! Errors of the opening handshake.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use super::refusal::WsRefusal;

/// Returned when a connection does not become a WebSocket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WsHandshakeError {
    /// The request was refused, and the peer has received the refusal.
    Refused(WsRefusal),
    /// The handshake was not complete in time, which was this duration.
    TimedOut(Duration),
    /// The peer closed the connection before its request was complete.
    PeerClosed,
    /// This side closed the connection during the handshake. Its record has the reason.
    Cancelled,
    /// The byte stream failed.
    Io(Arc<io::Error>),
}

impl fmt::Display for WsHandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_) => f.write_str("the WebSocket handshake was refused"),
            Self::TimedOut(time) => write!(f, "the WebSocket handshake took more than {time:?}"),
            Self::PeerClosed => {
                f.write_str("the peer closed the connection during the WebSocket handshake")
            }
            Self::Cancelled => {
                f.write_str("the connection was closed during the WebSocket handshake")
            }
            Self::Io(_) => f.write_str("the transport failed during the WebSocket handshake"),
        }
    }
}

impl Error for WsHandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Io(error) => Some(&**error),
            Self::TimedOut(_) | Self::PeerClosed | Self::Cancelled => None,
        }
    }
}

impl From<io::Error> for WsHandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<WsRefusal> for WsHandshakeError {
    fn from(refusal: WsRefusal) -> Self {
        Self::Refused(refusal)
    }
}
