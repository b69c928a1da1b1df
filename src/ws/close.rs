//! The close frame: its code and text, and what they have to do with a [`CloseReason`].

use std::{borrow::Cow, error::Error, fmt};

use getty_core::{CloseReason, Closed};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// The code and the text of a WebSocket close frame.
///
/// Given to [`close_with`](crate::ConnectionHandle::close_with) it closes the session with them; how a session was closed
/// is told by [`WsClose::of`].
///
/// ```
/// use getty::{CloseReason, ws::WsClose};
///
/// let reason = CloseReason::from(WsClose::new(4001, "no such room"));
/// assert_eq!(reason, CloseReason::Protocol { code: 4001, reason: "no such room".into() });
/// assert_eq!(reason.to_string(), "closed with code 4001: no such room");
/// ```
///
/// Codes from 3000 to 3999 are registered ones, those from 4000 to 4999 the application's own. One that may not be sent
/// (below 1000, 1004, 1006, 1015 to 2999, above 4999) goes out as 1011; 1005, which means that there is no code, goes out
/// as a frame without one. Of the text as much is sent as fits: 123 bytes, cut between two characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WsClose {
    code: u16,
    reason: Cow<'static, str>,
}

impl WsClose {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// A server goes down, or a browser leaves the page.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer did what the protocol does not allow.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Never sent: a close frame had no code.
    pub const NO_CODE: u16 = 1005;
    /// Never sent: the connection ended without a close frame.
    pub const ABNORMAL: u16 = 1006;
    /// A text message was not UTF-8, or the codec could make nothing of a message.
    pub const INVALID_DATA: u16 = 1007;
    /// The peer does not keep to what was agreed.
    pub const POLICY: u16 = 1008;
    /// A message was too long.
    pub const TOO_BIG: u16 = 1009;
    /// Something failed on the side that says so.
    pub const INTERNAL_ERROR: u16 = 1011;

    /// A close with `code` and `reason`, which may be empty.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The text.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// With which code a session ended, as a browser would be told: the peer's, where it has closed
    /// ([`NO_CODE`](Self::NO_CODE) if it gave none); [`ABNORMAL`](Self::ABNORMAL) if the connection was lost without a
    /// close frame; else ours.
    #[must_use]
    pub fn of(closed: &Closed) -> Self {
        let peers = closed.source.as_ref();
        match peers.and_then(|source| source.downcast_ref::<Self>()) {
            Some(close) if closed.reason == CloseReason::PeerClosed => close.clone(),
            _ => Self::for_reason(&closed.reason),
        }
    }

    /// What our side says to the peer of a close for `reason`.
    pub(super) fn for_reason(reason: &CloseReason) -> Self {
        let code = match reason {
            CloseReason::PeerClosed | CloseReason::Local => Self::NORMAL,
            CloseReason::Shutdown | CloseReason::LifetimeExpired | CloseReason::IdleTimeout => {
                Self::GOING_AWAY
            }
            CloseReason::Decode => Self::INVALID_DATA,
            CloseReason::ReadTimeout
            | CloseReason::SlowConsumer
            | CloseReason::HandshakeTimeout
            | CloseReason::Refused => Self::POLICY,
            CloseReason::Io | CloseReason::WriteTimeout | CloseReason::Dropped => Self::ABNORMAL,
            CloseReason::Protocol { code, reason } => return Self::new(*code, reason.clone()),
            // of failures of ours the peer learns no more than that
            _ => Self::INTERNAL_ERROR,
        };
        let text = match reason {
            CloseReason::PeerClosed | CloseReason::Local => "",
            CloseReason::Shutdown => "going down",
            CloseReason::LifetimeExpired => "maximum age reached",
            CloseReason::IdleTimeout => "idle for too long",
            CloseReason::Decode => "bad data",
            CloseReason::ReadTimeout => "message not completed in time",
            CloseReason::SlowConsumer => "reads too slowly",
            CloseReason::HeartbeatMissed => "heartbeat not answered",
            CloseReason::AnswerMissed => "request not answered",
            _ => "",
        };
        Self::new(code, text)
    }

    /// What a close frame says, or that it may not be said.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, super::WsError> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return if payload.is_empty() {
                Ok(Self::new(Self::NO_CODE, ""))
            } else {
                Err(super::WsError::Protocol("a close frame with half a code"))
            };
        };
        let code = u16::from_be_bytes(*code);
        if !may_be_sent(code) {
            return Err(super::WsError::Protocol(
                "a close code that may not be sent",
            ));
        }
        match std::str::from_utf8(reason) {
            Ok(reason) => Ok(Self::new(code, reason.to_owned())),
            Err(_) => Err(super::WsError::NotUtf8),
        }
    }

    /// The payload of a close frame: at most 125 bytes, nothing that may not be sent.
    pub(super) fn payload(&self) -> Vec<u8> {
        let code = match self.code {
            Self::NO_CODE => return Vec::new(),
            code if may_be_sent(code) => code,
            _ => Self::INTERNAL_ERROR,
        };
        let mut payload = code.to_be_bytes().to_vec();
        let end = self.reason.floor_char_boundary(MAX_REASON);
        payload.extend_from_slice(&self.reason.as_bytes()[..end]);
        payload
    }
}

/// What the code leaves of the 125 bytes of a control frame.
const MAX_REASON: usize = 123;

fn may_be_sent(code: u16) -> bool {
    CloseCode::from(code).is_allowed() && !matches!(code, 0 | 1004 | 1014)
}

impl From<WsClose> for CloseReason {
    fn from(close: WsClose) -> Self {
        Self::Protocol {
            code: close.code,
            reason: close.reason,
        }
    }
}

impl fmt::Display for WsClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, &*self.reason) {
            (Self::NO_CODE, _) => f.write_str("close frame without a code"),
            (code, "") => write!(f, "close frame with code {code}"),
            (code, reason) => write!(f, "close frame with code {code}: {reason}"),
        }
    }
}

/// The source of [`CloseReason::PeerClosed`] when the peer has sent a close frame.
impl Error for WsClose {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_goes_out_that_may_not() {
        for code in 0..=u16::MAX {
            let payload = WsClose::new(code, "because").payload();
            let sent = WsClose::parse(&payload).unwrap();
            let allowed = matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999);
            let expected = match code {
                1005 => 1005,
                _ if allowed => code,
                _ => 1011,
            };
            assert_eq!(sent.code(), expected);
            assert_eq!(sent.reason(), if code == 1005 { "" } else { "because" });
            // and none is taken
            if !allowed {
                assert!(WsClose::parse(&code.to_be_bytes()).is_err(), "{code}");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let payload = WsClose::new(4000, "ä".repeat(100)).payload();
        assert_eq!(payload.len(), 124);
        let sent = WsClose::parse(&payload).unwrap();
        assert_eq!(sent.reason(), "ä".repeat(61));
    }

    #[test]
    fn close_frames_that_are_no_good_are_refused() {
        assert!(WsClose::parse(&[3]).is_err());
        assert_eq!(
            WsClose::parse(b"\x03\xe8\xff").unwrap_err(),
            super::super::WsError::NotUtf8
        );
    }
}
