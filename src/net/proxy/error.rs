//! Errors of a dial through a proxy.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use getty_core::SharedError;
use tower::BoxError;

use super::target::ProxyTargetError;

/// Returned when a dial through a proxy fails.
///
/// A dial sends no message, so it may always be retried. A retry is of little use after
/// [`Target`](Self::Target), [`InvalidLogin`](Self::InvalidLogin),
/// [`AuthRequired`](Self::AuthRequired) and [`LoginRejected`](Self::LoginRejected): the
/// configuration must change first. A client's
/// [retry policy](crate::client::ClientBuilder::with_retry_policy) can stop it for these. The
/// error has no credentials.
///
/// If the connection to the proxy was open, the error is also the source of its
/// [`CloseReason::Refused`](crate::CloseReason::Refused). For [`TimedOut`](Self::TimedOut) the
/// reason is [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProxyConnectError {
    /// The target is not valid. Nothing was dialed.
    Target(ProxyTargetError),
    /// The login does not fit the protocol. The text names the rule. Nothing was dialed.
    InvalidLogin(&'static str),
    /// The target's name was not resolved, which is required
    /// [with local DNS](super::Socks5ConnectLayer::with_local_dns). Nothing was dialed.
    Resolve(Arc<io::Error>),
    /// The proxy was not reached. The source is the connector's error.
    Connect(SharedError),
    /// The proxy did not reach the target. The code is a reply of SOCKS (3 to 6) or an HTTP status
    /// (502 to 504).
    Unreachable {
        /// Code of the proxy's reply.
        code: u16,
    },
    /// The proxy refused the request. The code is a reply of SOCKS or an HTTP status. Proxies use
    /// general codes such as 1 and 500 also for a target that they did not reach.
    Refused {
        /// Code of the proxy's reply.
        code: u16,
    },
    /// The proxy requires a login, and none is set. Or a SOCKS proxy requires a method that is
    /// not supported.
    AuthRequired,
    /// The proxy does not accept the login, or does not support logins of this kind.
    LoginRejected,
    /// The reply does not follow the protocol. The text names the rule. The peer may be no proxy of
    /// this kind.
    InvalidReply(&'static str),
    /// The head of the reply exceeds the maximum, which is this many bytes.
    HeadTooLong(usize),
    /// The proxy closed the connection before its reply was complete.
    PeerClosed,
    /// This side closed the connection through its handle before the reply was complete.
    Cancelled,
    /// The transport failed before the reply was complete.
    Io(Arc<io::Error>),
    /// The dial and the proxy's replies were not complete within this duration.
    TimedOut(Duration),
}

impl ProxyConnectError {
    pub(super) fn connect(error: impl Into<BoxError>) -> Self {
        Self::Connect(error.into().into())
    }
}

impl From<io::Error> for ProxyConnectError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::PeerClosed
        } else {
            Self::Io(Arc::new(error))
        }
    }
}

impl fmt::Display for ProxyConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(_) => f.write_str("the target cannot be requested from a proxy"),
            Self::InvalidLogin(rule) => write!(f, "the login for the proxy is invalid: {rule}"),
            Self::Resolve(_) => f.write_str("cannot resolve the name of the target"),
            Self::Connect(_) => f.write_str("cannot connect to the proxy"),
            Self::Unreachable { code } => {
                write!(f, "the proxy cannot reach the target (code {code})")
            }
            Self::Refused { code } => write!(f, "the proxy refused the request (code {code})"),
            Self::AuthRequired => f.write_str("the proxy requires a login"),
            Self::LoginRejected => f.write_str("the proxy does not accept the login"),
            Self::InvalidReply(rule) => write!(f, "invalid reply from the proxy: {rule}"),
            Self::HeadTooLong(max) => {
                write!(f, "the proxy's reply exceeds the maximum of {max} bytes")
            }
            Self::PeerClosed => f.write_str("the proxy closed the connection before its reply"),
            Self::Cancelled => f.write_str("the connection was closed before the proxy's reply"),
            Self::Io(_) => f.write_str("the connection to the proxy failed"),
            Self::TimedOut(timeout) => {
                write!(f, "no connection through the proxy within {timeout:?}")
            }
        }
    }
}

impl Error for ProxyConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Target(source) => Some(source),
            Self::Resolve(source) | Self::Io(source) => Some(&**source),
            Self::Connect(source) => Some(&**source),
            _ => None,
        }
    }
}
