//! Errors of the PROXY protocol.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use getty_core::{AddressesFixed, CloseReason};

use crate::layers::access::AccessDenied;

/// Returned by [`ProxyProtocol`](super::ProxyProtocol) and
/// [`ProxyProtocolConnect`](super::ProxyProtocolConnect) when a connection has no header that
/// can be used.
///
/// It is also the source of the connection's [`CloseReason::Refused`]. For
/// [`TimedOut`](Self::TimedOut) the reason is [`CloseReason::HandshakeTimeout`], and for
/// [`Probe`](Self::Probe) it is [`CloseReason::PeerClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// The socket's peer is not a trusted proxy. The source names the rule.
    Untrusted(AccessDenied),
    /// A trusted proxy sent no valid header.
    Header(HeaderError),
    /// A trusted proxy closed the connection before it sent a byte, as health checks do that only
    /// connect.
    Probe,
    /// A trusted proxy closed the connection in the middle of its header.
    Truncated,
    /// The header was not complete within this duration.
    TimedOut(Duration),
    /// The connection has a header or real addresses already. A stack must have only one
    /// `ProxyProtocolLayer`.
    Fixed(AddressesFixed),
    /// This side closed the connection through its handle before the header was complete.
    Cancelled,
    /// The transport failed.
    Io(Arc<io::Error>),
    /// The header that a client is to send does not fit the protocol: its TLVs have more than
    /// 65,535 bytes with the addresses, or a Unix path has more than 108.
    TooLarge,
}

/// Defect of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderError {
    /// The connection begins with something else.
    Missing,
    /// The line of version 1 deviates from its grammar.
    Line,
    /// The header is longer than this maximum, in bytes.
    TooLong {
        /// The maximum.
        max: usize,
    },
    /// The signature is that of the binary format, and this version is not 2.
    Version(u8),
    /// The command is neither LOCAL (0) nor PROXY (1).
    Command(u8),
    /// The byte of address family and transport has an unassigned value.
    Family(u8),
    /// The header is too short for the addresses of its family.
    Addresses,
    /// The TLV of this type is longer than the rest of the header.
    Tlv(u8),
    /// The checksum does not match the header, or is not one checksum of four bytes.
    Checksum,
}

impl ProxyError {
    pub(super) const fn reason(&self) -> CloseReason {
        match self {
            Self::TimedOut(_) => CloseReason::HandshakeTimeout,
            Self::Probe => CloseReason::PeerClosed,
            _ => CloseReason::Refused,
        }
    }
}

impl From<HeaderError> for ProxyError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(_) => f.write_str("the peer is not a trusted proxy"),
            Self::Header(HeaderError::Missing) => f.write_str(
                "a trusted proxy sent no PROXY header; its health checks must send one as well",
            ),
            Self::Header(_) => f.write_str("a trusted proxy sent an invalid PROXY header"),
            Self::Probe => f.write_str("a trusted proxy connected and sent nothing"),
            Self::Truncated => f.write_str("a trusted proxy sent an incomplete PROXY header"),
            Self::TimedOut(timeout) => {
                write!(f, "the PROXY header was not complete within {timeout:?}")
            }
            Self::Fixed(_) => f.write_str("the connection has a PROXY header already"),
            Self::Cancelled => f.write_str("the connection was closed before its PROXY header"),
            Self::Io(_) => f.write_str("the transport failed during the PROXY header"),
            Self::TooLarge => f.write_str("the PROXY header to send exceeds its format"),
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Untrusted(source) => Some(source),
            Self::Header(source) => Some(source),
            Self::Fixed(source) => Some(source),
            Self::Io(source) => Some(&**source),
            _ => None,
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the connection begins with other bytes"),
            Self::Line => f.write_str("the line of version 1 is malformed"),
            Self::TooLong { max } => write!(f, "it is longer than {max} bytes"),
            Self::Version(version) => write!(f, "version {version} is unknown"),
            Self::Command(command) => write!(f, "command {command} is unknown"),
            Self::Family(family) => {
                write!(f, "address family and transport {family:#04x} are unknown")
            }
            Self::Addresses => f.write_str("it is too short for its addresses"),
            Self::Tlv(kind) => write!(f, "the TLV of type {kind:#04x} exceeds it"),
            Self::Checksum => f.write_str("its checksum does not match"),
        }
    }
}

impl Error for HeaderError {}
