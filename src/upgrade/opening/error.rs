//! Errors of a dialogue.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use getty_core::SharedError;
use tower::BoxError;

#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Returned by [`Opening`](super::Opening) when a step of the dialogue fails.
///
/// If the dialogue ends with it, it is the source of the connection's
/// [`CloseReason::Refused`](crate::CloseReason::Refused). For [`TimedOut`](Self::TimedOut) the
/// reason is [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum OpeningError {
    /// The codec cannot decode the received bytes. The source is its error.
    Decode(SharedError),
    /// The codec cannot encode a message. The source is its error. Nothing was sent.
    Encode(SharedError),
    /// This many bytes have arrived without a complete message. It is the maximum, which
    /// [`with_max_frame`](super::OpeningLayer::with_max_frame) sets.
    FrameTooLong(usize),
    /// The peer ended its direction before it had sent the required bytes.
    PeerClosed,
    /// The peer has sent this many bytes too early: behind the message before TLS, or before the
    /// session although none were expected. They may have been injected into the connection.
    ReadAhead(usize),
    /// The codec has taken whole messages out of the read buffer, and cannot return them as bytes.
    /// The peer has sent them too early, or the dialogue must use another codec. A codec that
    /// wraps [`Frames`](crate::codec::Frames) should wrap
    /// [`LengthDelimited`](crate::codec::LengthDelimited) instead.
    CodecReadAhead,
    /// This many encoded bytes were not sent, because their send was dropped. The function must
    /// send them before it ends the dialogue.
    Unsent(usize),
    /// The TLS handshake failed. `Display` and `source` are those of the [`TlsError`].
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The transport failed.
    Io(Arc<io::Error>),
    /// The dialogue was not complete within this duration.
    TimedOut(Duration),
    /// This side closed the connection through its handle during the dialogue.
    Cancelled,
}

impl OpeningError {
    pub(super) fn decode(error: impl Into<BoxError>) -> Self {
        Self::Decode(error.into().into())
    }

    pub(super) fn encode(error: impl Into<BoxError>) -> Self {
        Self::Encode(error.into().into())
    }
}

impl From<io::Error> for OpeningError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

#[cfg(feature = "tls")]
impl From<TlsError> for OpeningError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl fmt::Display for OpeningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(_) => f.write_str("a message of the dialogue cannot be decoded"),
            Self::Encode(_) => f.write_str("a message of the dialogue cannot be encoded"),
            Self::FrameTooLong(max) => write!(
                f,
                "a message of the dialogue exceeds the maximum of {max} bytes"
            ),
            Self::PeerClosed => f.write_str("the peer ended its direction during the dialogue"),
            Self::ReadAhead(bytes) => {
                write!(f, "the peer sent {bytes} bytes before they were expected")
            }
            Self::CodecReadAhead => f.write_str("the codec took messages ahead of the dialogue"),
            Self::Unsent(bytes) => write!(f, "the dialogue ended with {bytes} bytes unsent"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            Self::Io(_) => f.write_str("the transport failed during the dialogue"),
            Self::TimedOut(timeout) => {
                write!(f, "the dialogue was not complete within {timeout:?}")
            }
            Self::Cancelled => f.write_str("the connection was closed during the dialogue"),
        }
    }
}

impl Error for OpeningError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Decode(source) | Self::Encode(source) => Some(&**source),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.source(),
            Self::Io(source) => Some(&**source),
            _ => None,
        }
    }
}
