//! Errors of upgrades.

use std::{error::Error, fmt, time::Duration};

use getty_core::CloseReason;

use crate::transport::CloseCause;

/// Error of an upgrade that was not possible or was not complete in time.
///
/// It is the source of [`CloseReason::UpgradeFailed`]. For [`TimedOut`](Self::TimedOut) the
/// reason is [`CloseReason::HandshakeTimeout`]. After a failed TLS handshake the
/// source is a `TlsError` instead, and after a failed function it is the error of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The transport cannot be upgraded. The connection stack needs a layer such as
    /// `StartTlsLayer` or [`UpgradeLayer`](super::UpgradeLayer), outside `CodecLayer`.
    Unsupported,
    /// The transport was upgraded before.
    Repeated,
    /// The session may run several handlers at once, so messages behind the request could be
    /// handled before the upgrade. Set
    /// [`with_in_flight`](crate::SessionLayer::with_in_flight) to 1, its default.
    SeveralHandlers,
    /// The peer has ended its direction.
    PeerFinished,
    /// This side has ended its direction with `finish`.
    Finished,
    /// The new transport is not a byte stream.
    NotAStream,
    /// The upgrade was not complete within this time.
    TimedOut(Duration),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => {
                "the transport cannot be upgraded; a layer such as `StartTlsLayer` is missing outside `CodecLayer`"
            }
            Self::Repeated => "the transport is upgraded already",
            Self::SeveralHandlers => {
                "a session that runs several handlers at once cannot be upgraded"
            }
            Self::PeerFinished => "the peer ended its direction before the upgrade",
            Self::Finished => "this side ended its direction before the upgrade",
            Self::NotAStream => "the new transport is not a byte stream",
            Self::TimedOut(timeout) => {
                return write!(f, "the upgrade was not complete within {timeout:?}");
            }
        })
    }
}

impl Error for UpgradeError {}

impl From<UpgradeError> for CloseCause {
    fn from(error: UpgradeError) -> Self {
        let reason = match error {
            UpgradeError::TimedOut(_) => CloseReason::HandshakeTimeout,
            _ => CloseReason::UpgradeFailed,
        };
        Self {
            reason,
            source: error.into(),
        }
    }
}

/// Error of an upgrade before which the peer has sent more than the request.
///
/// It is the source of [`CloseReason::Decode`]. An attacker who can add bytes to the plain part
/// of a connection would otherwise have them taken for bytes from after the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BytesBeforeUpgrade {
    /// Number of messages that were decoded ahead, or whose handlers are in flight.
    pub messages: usize,
    /// Number of bytes that were not decoded.
    pub bytes: usize,
}

impl fmt::Display for BytesBeforeUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes } = self;
        write!(
            f,
            "the peer sent {messages} messages and {bytes} bytes too early, before the upgrade"
        )
    }
}

impl Error for BytesBeforeUpgrade {}

impl From<BytesBeforeUpgrade> for CloseCause {
    fn from(error: BytesBeforeUpgrade) -> Self {
        Self {
            reason: CloseReason::Decode,
            source: error.into(),
        }
    }
}
