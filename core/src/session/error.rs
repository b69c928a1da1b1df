//! Outcomes of sends.

use std::{error::Error, fmt};

#[cfg(doc)]
use super::Session;
use crate::connection::{CloseReason, SharedError};

/// Outcome of a successful send: the transport was flushed after the last byte of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// Size of the encoded message, in bytes.
    pub bytes: usize,
}

/// Error of a send: the message was not sent, or it is unknown whether it was. A message that
/// was not accepted is returned.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<Out> {
    /// The queue is full, or too many bytes wait for a peer that reads more slowly than this side
    /// sends. The caller should back off and try again, or wait with [`feed`](Session::feed) or
    /// [`writable`](Session::writable).
    Full(Out),
    /// The `MemoryBudget` that the session shares with others is used up. The caller should back
    /// off and try again. Other sessions must send or end first, so waiting for this session does
    /// not help.
    Budget(Out),
    /// The session is closing or closed. A client waits for its reconnect.
    Closed {
        /// The message, if no byte was given to the transport.
        message: Option<Out>,
        /// Reason of the close.
        reason: CloseReason,
    },
    /// This side ended its direction with [`finish`](Session::finish). The session sends nothing
    /// more, and still receives.
    Finished(Out),
    /// The timeout of [`send_timeout`](Session::send_timeout) has elapsed.
    Timeout {
        /// The message if the session had not begun to encode it. It was then removed from the
        /// queue and will not be sent. Without it, the message will be sent once the peer takes it
        /// unless the session closes before.
        message: Option<Out>,
        /// `true` if the transport has taken bytes of the message.
        begun: bool,
    },
    /// The codec refused the message. No byte was sent and the session continues.
    Encode(SharedError),
    /// The transport failed after bytes of the message were given to it. The peer may or may not
    /// have received it.
    Io(SharedError),
    /// The transport does not support the operation. Only [`finish`](Session::finish) returns it,
    /// on transports that end in both directions at once. Close the session instead.
    Unsupported,
}

impl<Out> SendError<Out> {
    /// Returns the message if the error contains it.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::Full(message) | Self::Budget(message) | Self::Finished(message) => Some(message),
            Self::Closed { message, .. } | Self::Timeout { message, .. } => message,
            Self::Encode(_) | Self::Io(_) | Self::Unsupported => None,
        }
    }

    /// Returns `true` if there was no room. A second attempt on the same session may succeed.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Budget(_))
    }

    /// Returns `true` if the session is closing or closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Applies `f` to the message. It can drop the message, or unify errors of different message
    /// types.
    ///
    /// ```
    /// use getty_core::SendError;
    ///
    /// let error = SendError::Full("a message").map(drop);
    /// assert_eq!(error.into_message(), Some(()));
    /// ```
    #[must_use]
    pub fn map<Other>(self, f: impl FnOnce(Out) -> Other) -> SendError<Other> {
        match self {
            Self::Full(message) => SendError::Full(f(message)),
            Self::Budget(message) => SendError::Budget(f(message)),
            Self::Finished(message) => SendError::Finished(f(message)),
            Self::Closed { message, reason } => SendError::Closed {
                message: message.map(f),
                reason,
            },
            Self::Timeout { message, begun } => SendError::Timeout {
                message: message.map(f),
                begun,
            },
            Self::Encode(source) => SendError::Encode(source),
            Self::Io(source) => SendError::Io(source),
            Self::Unsupported => SendError::Unsupported,
        }
    }
}

impl SendError<()> {
    /// Removes the message for an operation without one.
    pub(crate) fn without_message(self) -> Self {
        match self {
            Self::Closed { reason, .. } => Self::Closed {
                message: None,
                reason,
            },
            other => other,
        }
    }
}

impl<Out> fmt::Display for SendError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the session's queue is full"),
            Self::Budget(_) => f.write_str("the memory budget of sessions is used up"),
            Self::Closed { reason, .. } => write!(f, "the session is closed: {reason}"),
            Self::Finished(_) => f.write_str("this side has ended its direction"),
            Self::Timeout { begun: false, .. } => {
                f.write_str("no byte of the message was sent in time")
            }
            Self::Timeout { begun: true, .. } => {
                f.write_str("only a part of the message was sent in time")
            }
            Self::Encode(_) => f.write_str("the message could not be encoded"),
            Self::Io(_) => f.write_str("the transport failed before the message was flushed"),
            Self::Unsupported => f.write_str("the transport cannot end one direction alone"),
        }
    }
}

impl<Out: fmt::Debug> Error for SendError<Out> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Encode(source) | Self::Io(source) => Some(&**source),
            _ => None,
        }
    }
}
