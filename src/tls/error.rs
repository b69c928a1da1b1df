//! Why a handshake failed.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use tokio_rustls::rustls::{self, AlertDescription, InvalidMessage};

/// Why a handshake failed: what [`Tls`](super::Tls) and [`TlsConnect`](super::TlsConnect) fail with, and the source of the
/// connection's [`CloseReason::Refused`](crate::CloseReason::Refused), or for [`TimedOut`](Self::TimedOut) of its
/// [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate is not accepted; the source says why: expired, of an authority that is not trusted, for
    /// another name, ... It is for the peer to show another, or for the roots to be changed.
    PeerCertificate(rustls::Error),
    /// The peer has shown no certificate, and one is required.
    NoPeerCertificate,
    /// The peer has ended the handshake, for the reason that it gave: it may not trust our certificate, want one from us,
    /// or support nothing that we do.
    RefusedByPeer(AlertDescription),
    /// What came is not TLS: the peer speaks something else, such as the protocol that is to be inside of TLS.
    NotTls(rustls::Error),
    /// The two have nothing in common, or one of them violated the protocol; the source says what.
    Protocol(rustls::Error),
    /// The peer's `ClientHello` exceeds the server's maximum, which is this many bytes.
    HelloTooLong(usize),
    /// The peer ended the connection before the handshake was complete.
    Ended,
    /// Somebody on our side closed the connection, through its handle, before the handshake was complete.
    Closed,
    /// The transport failed during the handshake.
    Io(Arc<io::Error>),
    /// The handshake was not complete in time, which was so much.
    TimedOut(Duration),
    /// A client's target says no name to verify the server's certificate for, and none was given.
    NoServerName,
}

impl TlsError {
    /// tokio-rustls wraps what rustls finds.
    pub(super) fn of_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => Self::found(rustls::Error::clone(inner)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Ended,
            None => Self::Io(Arc::new(error)),
        }
    }

    fn found(error: rustls::Error) -> Self {
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
            Self::NoPeerCertificate => f.write_str("the peer has shown no certificate"),
            Self::RefusedByPeer(alert) => {
                write!(
                    f,
                    "the peer ended the TLS handshake with the alert {alert:?}"
                )
            }
            Self::NotTls(_) => f.write_str("what the peer sent is not TLS"),
            Self::Protocol(_) | Self::Io(_) => f.write_str("the TLS handshake failed"),
            Self::HelloTooLong(max) => {
                write!(f, "the peer's TLS ClientHello is longer than {max} bytes")
            }
            Self::Closed => f.write_str("the connection was closed during the TLS handshake"),
            Self::Ended => f.write_str("the peer left in the middle of the TLS handshake"),
            Self::TimedOut(timeout) => {
                write!(f, "the TLS handshake was not complete within {timeout:?}")
            }
            Self::NoServerName => {
                f.write_str("there is no name to verify the server's certificate for")
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
            Self::Io(source) => Some(&**source),
            _ => None,
        }
    }
}
