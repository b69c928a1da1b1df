//! Errors of a handshake.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use tokio_rustls::rustls::{self, AlertDescription, InvalidMessage};

use super::refusal::TlsRefusal;

/// Returned by [`Tls`](super::Tls) and [`TlsConnect`](super::TlsConnect) when a handshake
/// fails.
///
/// It is also the source of the connection's
/// [`CloseReason::Refused`](crate::CloseReason::Refused). For [`TimedOut`](Self::TimedOut) the
/// reason is [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate is not accepted. The source contains the reason: expired, from an
    /// untrusted authority, for another name, and others. The peer must present another one, or the
    /// roots must be changed.
    PeerCertificate(rustls::Error),
    /// The peer presented no certificate although one is required.
    NoPeerCertificate,
    /// The peer ended the handshake with this alert. It may distrust our certificate, require one
    /// from us, or support none of our parameters.
    RefusedByPeer(AlertDescription),
    /// The received bytes are not TLS. The peer speaks another protocol, possibly the one that
    /// should be inside TLS.
    NotTls(rustls::Error),
    /// The peers have no parameters in common, or one of the two violated the protocol. The source
    /// contains the reason.
    Protocol(rustls::Error),
    /// The peer's `ClientHello` exceeds the server's maximum, which is this many bytes.
    HelloTooLong(usize),
    /// The function of [`TlsLayer::choose`](super::TlsLayer::choose) refused the client.
    Refused(TlsRefusal),
    /// The rate of handshakes is exceeded, and the client would have to wait too long. See
    /// [`TlsLayer::with_handshake_rate`](super::TlsLayer::with_handshake_rate).
    TooManyHandshakes,
    /// The peer closed the connection before the handshake was complete.
    PeerClosed,
    /// This side closed the connection through its handle before the handshake was complete.
    Cancelled,
    /// The transport failed during the handshake.
    Io(Arc<io::Error>),
    /// The handshake was not complete within this duration.
    TimedOut(Duration),
    /// A client's target has no name to verify the server's certificate for, and none was set.
    NoServerName,
}

impl TlsError {
    /// Converts an error of tokio-rustls, which wraps the errors of rustls.
    pub(super) fn from_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => Self::from_rustls(rustls::Error::clone(inner)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::PeerClosed,
            None => Self::Io(Arc::new(error)),
        }
    }

    /// Returns the alert for a client that is refused after its `ClientHello`.
    pub(super) const fn alert(&self) -> AlertDescription {
        match self {
            Self::Refused(refusal) => refusal.alert(),
            Self::HelloTooLong(_) => AlertDescription::IllegalParameter,
            _ => AlertDescription::InternalError,
        }
    }

    fn from_rustls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) => Self::PeerCertificate(error),
            rustls::Error::NoCertificatesPresented => Self::NoPeerCertificate,
            rustls::Error::AlertReceived(alert) => Self::RefusedByPeer(alert),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls(error),
            _ => Self::Protocol(error),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerCertificate(_) => f.write_str("the peer's certificate is not accepted"),
            Self::NoPeerCertificate => f.write_str("the peer presented no certificate"),
            Self::RefusedByPeer(alert) => {
                write!(
                    f,
                    "the peer ended the TLS handshake with the alert {alert:?}"
                )
            }
            Self::NotTls(_) => f.write_str("the peer does not speak TLS"),
            Self::Protocol(_) | Self::Io(_) => f.write_str("the TLS handshake failed"),
            Self::HelloTooLong(max) => {
                write!(
                    f,
                    "the peer's ClientHello exceeds the maximum of {max} bytes"
                )
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::TooManyHandshakes => f.write_str("the rate of TLS handshakes is exceeded"),
            Self::Cancelled => f.write_str("the connection was closed during the TLS handshake"),
            Self::PeerClosed => {
                f.write_str("the peer closed the connection during the TLS handshake")
            }
            Self::TimedOut(timeout) => {
                write!(f, "the TLS handshake was not complete within {timeout:?}")
            }
            Self::NoServerName => {
                f.write_str("no name is known to verify the server's certificate for")
            }
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::PeerCertificate(source) | Self::NotTls(source) | Self::Protocol(source) => {
                Some(source)
            }
            Self::Refused(refusal) => refusal.source(),
            Self::Io(source) => Some(&**source),
            _ => None,
        }
    }
}
