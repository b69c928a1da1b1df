//! Close frames: their codes, their text, and the [`CloseReason`] of each.

use std::{borrow::Cow, error::Error, fmt};

use getty_core::{ApplicationClose, CloseReason, Closed};

/// Code and text of a WebSocket close frame.
///
/// Pass it to [`close_with`](crate::ConnectionHandle::close_with) to close a session with this
/// code and text. [`WsClose::of`] returns the close frame with which a session ended.
///
/// ```
/// use getty::{CloseReason, ws::WsClose};
///
/// let reason = CloseReason::from(WsClose::new(4001, "no such room"));
/// assert_eq!(reason, CloseReason::Protocol { code: 4001, reason: "no such room".into() });
/// assert_eq!(reason.to_string(), "closed with code 4001: no such room");
/// ```
///
/// Codes from 3000 to 3999 are registered, and those from 4000 to 4999 are for applications. A
/// code that must not be sent (below 1000, 1004, 1006, 1015 to 2999, above 4999) is sent as
/// 1011. Code 1005, which means "no code", is sent as a frame without a code. The text is cut
/// to 123 bytes, between two characters.
///
/// An [`ApplicationClose`] is sent as 4000 + its code, with its name as the text. The peer gets
/// the code back from [`application_code`](Self::application_code).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WsClose {
    code: u16,
    reason: Cow<'static, str>,
}

impl WsClose {
    /// The session has served its purpose.
    pub const NORMAL: u16 = 1000;
    /// A server shuts down, or a browser leaves the page.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer violated the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A message of a kind that the receiver does not accept, such as text.
    pub const UNSUPPORTED: u16 = 1003;
    /// Never sent: a close frame without a code.
    pub const NO_CODE: u16 = 1005;
    /// Never sent: the connection ended without a close frame.
    pub const ABNORMAL: u16 = 1006;
    /// A text message is not UTF-8, or the codec cannot decode a message.
    pub const INVALID_DATA: u16 = 1007;
    /// The peer violated a policy.
    pub const POLICY: u16 = 1008;
    /// A message is too long.
    pub const TOO_BIG: u16 = 1009;
    /// The side that sends the code has failed.
    pub const INTERNAL_ERROR: u16 = 1011;

    /// First code for applications.
    pub const APPLICATION: u16 = 4000;
    /// Last code for applications.
    const LAST: u16 = Self::APPLICATION + ApplicationClose::MAX_CODE;

    /// Creates a close frame with `code` and `reason`, which may be empty.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }

    /// Returns the code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// Returns the code of the peer's or this side's [`ApplicationClose`]: the code of the close
    /// frame less 4000. Returns `None` for a code below 4000.
    ///
    /// ```
    /// use getty::{ApplicationClose, ws::WsClose};
    ///
    /// const KICKED: ApplicationClose = ApplicationClose::new(17, "kicked");
    ///
    /// let close = WsClose::from(KICKED);
    /// assert_eq!((close.code(), close.reason()), (4017, "kicked"));
    /// assert_eq!(close.application_code(), Some(KICKED.code()));
    /// ```
    #[must_use]
    pub const fn application_code(&self) -> Option<u16> {
        match self.code {
            Self::APPLICATION..=Self::LAST => Some(self.code - Self::APPLICATION),
            _ => None,
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the close frame with which a session ended, as a browser would report it. If the
    /// peer closed, it is the peer's ([`NO_CODE`](Self::NO_CODE) if it had none). If the connection
    /// was lost without a close frame, it is [`ABNORMAL`](Self::ABNORMAL). Otherwise it is ours.
    // (design.md: Why does a lost connection close as `Protocol` with code 1006?)
    #[must_use]
    pub fn of(closed: &Closed) -> Self {
        let peers = closed.source.as_ref();
        match peers.and_then(|source| source.downcast_ref::<Self>()) {
            Some(close) if closed.reason == CloseReason::PeerClosed => close.clone(),
            _ => Self::for_reason(&closed.reason),
        }
    }

    /// Returns the close frame that is sent for `reason`.
    pub(super) fn for_reason(reason: &CloseReason) -> Self {
        let code = match reason {
            CloseReason::PeerClosed | CloseReason::Local => Self::NORMAL,
            CloseReason::Shutdown | CloseReason::LifetimeExpired | CloseReason::IdleTimeout => {
                Self::GOING_AWAY
            }
            CloseReason::Decode => Self::INVALID_DATA,
            CloseReason::ReadTimeout
            | CloseReason::SlowConsumer
            | CloseReason::TakenOver
            | CloseReason::HandshakeTimeout
            | CloseReason::Refused => Self::POLICY,
            CloseReason::Io | CloseReason::WriteTimeout | CloseReason::Dropped => Self::ABNORMAL,
            CloseReason::Protocol { code, reason } => return Self::new(*code, reason.clone()),
            CloseReason::Application(close) => return (*close).into(),
            // The peer receives no details about failures on this side.
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
            CloseReason::TakenOver => "taken over by another session",
            CloseReason::HeartbeatMissed => "heartbeat not answered",
            CloseReason::AnswerMissed => "request not answered",
            _ => "",
        };
        Self::new(code, text)
    }

    /// Parses the payload of a close frame.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, InvalidClose> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return if payload.is_empty() {
                Ok(Self::new(Self::NO_CODE, ""))
            } else {
                Err(InvalidClose::TruncatedCode)
            };
        };
        let code = u16::from_be_bytes(*code);
        if !may_be_sent(code) {
            return Err(InvalidClose::Code);
        }
        match std::str::from_utf8(reason) {
            Ok(reason) => Ok(Self::new(code, reason.to_owned())),
            Err(_) => Err(InvalidClose::NotUtf8),
        }
    }

    /// Returns the payload of a close frame: at most 125 bytes, with a code that may be sent.
    pub(super) fn payload(&self) -> Vec<u8> {
        let code = match self.code {
            Self::NO_CODE => return Vec::new(),
            code if may_be_sent(code) => code,
            _ => Self::INTERNAL_ERROR,
        };
        let mut payload = code.to_be_bytes().to_vec();
        let end = char_boundary_before(&self.reason, MAX_REASON);
        payload.extend_from_slice(&self.reason.as_bytes()[..end]);
        payload
    }
}

/// Maximum length of the text in bytes: the 125 bytes of a control frame without the code.
const MAX_REASON: usize = 123;

/// Returns the length of the longest prefix of `text` that has at most `max` bytes and does not
/// end within a character.
fn char_boundary_before(text: &str, max: usize) -> usize {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// Returns `true` if a close frame with `code` is valid: RFC 6455, section 7.4, and the
/// registry of IANA.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Returned by [`WsClose::parse`] when a close frame is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvalidClose {
    /// The payload has a single byte.
    TruncatedCode,
    /// The code must not be sent.
    Code,
    /// The text is not UTF-8.
    NotUtf8,
}

impl From<WsClose> for CloseReason {
    fn from(close: WsClose) -> Self {
        Self::Protocol {
            code: close.code,
            reason: close.reason,
        }
    }
}

impl From<ApplicationClose> for WsClose {
    fn from(close: ApplicationClose) -> Self {
        Self::new(Self::APPLICATION + close.code(), close.name())
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
    fn only_valid_codes_are_sent_and_received() {
        for code in 0..=u16::MAX {
            let payload = WsClose::new(code, "because").payload();
            let sent = WsClose::parse(&payload).unwrap();
            let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let expected = match code {
                1005 => 1005,
                _ if allowed => code,
                _ => 1011,
            };
            assert_eq!(sent.code(), expected);
            assert_eq!(sent.reason(), if code == 1005 { "" } else { "because" });
            // Invalid codes are refused.
            if !allowed {
                assert!(WsClose::parse(&code.to_be_bytes()).is_err(), "{code}");
            }
        }
    }

    #[test]
    fn long_text_is_cut_between_two_characters() {
        let payload = WsClose::new(4000, "ä".repeat(100)).payload();
        assert_eq!(payload.len(), 124);
        let sent = WsClose::parse(&payload).unwrap();
        assert_eq!(sent.reason(), "ä".repeat(61));
    }

    #[test]
    fn invalid_close_frames_are_refused() {
        assert!(WsClose::parse(&[3]).is_err());
        assert_eq!(
            WsClose::parse(b"\x03\xe8\xff").unwrap_err(),
            InvalidClose::NotUtf8
        );
    }
}
