//! The reason of a close.

use std::{borrow::Cow, fmt};

/// Reason why a connection was closed. The first reason recorded wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its direction, and all its messages were handled.
    PeerClosed,
    /// This side called [`close`](super::ConnectionHandle::close).
    Local,
    /// The server is shutting down.
    Shutdown,
    /// The session was idle for the whole idle timeout.
    IdleTimeout,
    /// The peer did not answer a heartbeat in time.
    HeartbeatMissed,
    /// The peer did not respond to a request in time, and its responses come in order: later
    /// responses could belong to other requests. Or abandoned requests
    /// (`CorrelateLayer::in_order`) reached the limit of requests in flight and the peer responded
    /// to none.
    AnswerMissed,
    /// The peer began a frame and did not complete it in time.
    ReadTimeout,
    /// Bytes were waiting to be written and the peer took none in time.
    WriteTimeout,
    /// A handshake before the session did not complete in time, or the handshake of an upgrade in
    /// an open session.
    HandshakeTimeout,
    /// A handler has requested an upgrade of the transport, for example to TLS, and the upgrade
    /// was not possible or has failed. The source is the error. Nothing was sent over the old
    /// transport afterwards.
    UpgradeFailed,
    /// The session reached its maximum age.
    LifetimeExpired,
    /// Another session has taken the identity of this one, such as a later login of the same user.
    TakenOver,
    /// The peer reads more slowly than this side writes and the policy was to close.
    SlowConsumer,
    /// The codec could not decode the peer's bytes. The source is the codec's error.
    Decode,
    /// The codec could not encode a message without a waiting sender: a reply, or one sent with
    /// `feed` or `try_send`. The source is the codec's error.
    Encode,
    /// The message stack returned an error, or another function of the application did, such as a
    /// periodic one. The error is the source.
    Handler,
    /// The transport failed. The source is its error.
    Io,
    /// Code of the stack panicked. The source contains the panic's message.
    Panicked,
    /// The connection was refused before its session opened. The source is the error of the layer
    /// that refused it.
    Refused,
    /// A close with a code of the transport's protocol, such as the code of a WebSocket close
    /// frame.
    Protocol {
        /// Numeric code of the reason.
        code: u16,
        /// Text of the reason.
        reason: Cow<'static, str>,
    },
    /// A reason that the application defines, with a code and a name.
    Application(ApplicationClose),
    /// The connection was dropped while it was open: its task was aborted or the runtime shut
    /// down.
    Dropped,
}

impl CloseReason {
    /// Returns a short name in `snake_case`, stable enough for the label of a metric. For
    /// [`Application`](Self::Application) it is the name that the application has chosen. The code
    /// of a protocol is not included.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Local => "local",
            Self::Shutdown => "shutdown",
            Self::IdleTimeout => "idle_timeout",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::AnswerMissed => "answer_missed",
            Self::ReadTimeout => "read_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::UpgradeFailed => "upgrade_failed",
            Self::LifetimeExpired => "lifetime_expired",
            Self::TakenOver => "taken_over",
            Self::SlowConsumer => "slow_consumer",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Handler => "handler",
            Self::Io => "io",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
            Self::Protocol { .. } => "protocol",
            Self::Application(close) => close.name(),
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "closed by the peer",
            Self::Local => "closed by this side",
            Self::Shutdown => "shut down",
            Self::IdleTimeout => "idle for too long",
            Self::HeartbeatMissed => "heartbeat not answered",
            Self::AnswerMissed => "no response in time",
            Self::ReadTimeout => "frame not completed in time",
            Self::WriteTimeout => "peer took no bytes in time",
            Self::HandshakeTimeout => "handshake not completed in time",
            Self::UpgradeFailed => "upgrade of the transport failed",
            Self::LifetimeExpired => "maximum age reached",
            Self::TakenOver => "taken over by another session",
            Self::SlowConsumer => "peer reads too slowly",
            Self::Decode => "bad data from the peer",
            Self::Encode => "message could not be encoded",
            Self::Handler => "handler failed",
            Self::Io => "transport failed",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
            Self::Protocol { code, reason } => {
                return write!(f, "closed with code {code}: {reason}");
            }
            Self::Application(close) => return close.fmt(f),
            Self::Dropped => "dropped while open",
        })
    }
}

/// Close reason that the application defines, such as "kicked" or "logged in elsewhere".
///
/// It has a code for the peer and a name for logs and metrics. The name is constant, so that it
/// can be the label of a metric: [`CloseReason::as_str`] returns it. Details of one close
/// should be in its [source](super::Close::with_source), which is logged.
///
/// ```
/// use getty_core::{ApplicationClose, Close, CloseReason, Connection};
///
/// const KICKED: ApplicationClose = ApplicationClose::new(1, "kicked");
///
/// let connection = Connection::new("any transport");
/// let handle = connection.handle();
/// handle.close_with(Close::new(KICKED).with_source("flooded the lobby"));
///
/// assert!(matches!(handle.reason(), Some(CloseReason::Application(KICKED))));
/// assert_eq!(handle.reason().unwrap().as_str(), "kicked");
/// ```
///
/// Over WebSocket the close frame has the code 4000 + [`code`](Self::code), in the range for
/// applications, and the name as its text. Other transports of getty have no field for a code,
/// so the application must send a last message if the peer should know the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationClose {
    code: u16,
    name: &'static str,
}

impl ApplicationClose {
    /// Maximum code: 999, because WebSocket sends the code plus 4000.
    pub const MAX_CODE: u16 = 999;

    /// Creates a new reason with a code from 0 to 999 and a name in `snake_case`.
    ///
    /// The name should differ from the labels of the other reasons, or a metric will add them up.
    /// A WebSocket close frame has room for 123 bytes of the name.
    ///
    /// # Panics
    ///
    /// Panics if the code is above [`MAX_CODE`](Self::MAX_CODE). In a constant this does not
    /// compile.
    #[must_use]
    pub const fn new(code: u16, name: &'static str) -> Self {
        assert!(code <= Self::MAX_CODE, "the code must be at most 999");
        Self { code, name }
    }

    /// Returns the code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.code
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for ApplicationClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.name, self.code)
    }
}

impl From<ApplicationClose> for CloseReason {
    fn from(close: ApplicationClose) -> Self {
        Self::Application(close)
    }
}
