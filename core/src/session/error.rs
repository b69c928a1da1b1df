//! What becomes of a message.

use std::{error::Error, fmt};

#[cfg(doc)]
use super::Session;
use super::payload::Payload;
use crate::connection::{CloseReason, SharedError};

/// A message has left: the transport was flushed after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// How many bytes the codec made of it.
    pub bytes: usize,
}

/// A message did not leave, or is not known to have left. Where it was not taken it is handed back.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<Out> {
    /// The queue is full, or too many bytes wait for the peer, which reads more slowly than is
    /// sent. Back off and try again, or wait with [`feed`](Session::feed) or
    /// [`writable`](Session::writable).
    Full(Out),
    /// The `MemoryBudget` that the session shares with others is used up. Back off and try again:
    /// it is others that have to send or end, so waiting for this session says nothing.
    Budget(Out),
    /// The session is closing or closed. A client waits for its reconnect.
    Closed {
        /// The message, where none of it was given to the transport.
        message: Option<Out>,
        /// Why the session closed.
        reason: CloseReason,
    },
    /// Our direction was ended by [`finish`](Session::finish): this session sends nothing more, and still receives.
    Finished(Out),
    /// The time given to [`send_timeout`](Session::send_timeout) is over.
    Timeout {
        /// The message, where the session had not begun to encode it: then it was taken back and is not sent. Without
        /// it, it is sent all the same as soon as the peer takes it, unless the session closes before.
        message: Option<Out>,
        /// Whether the transport has taken bytes of it.
        begun: bool,
    },
    /// The codec refused the message; nothing of it was sent, and the session goes on.
    Encode(SharedError),
    /// The transport failed after bytes of the message were given to it: the peer may or may not have it.
    Io(SharedError),
    /// The transport cannot do this: only [`finish`](Session::finish) says so, on transports that end in both directions
    /// at once. Close instead.
    Unsupported,
}

impl<Out> SendError<Out> {
    /// The message, where it was handed back.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::Full(message) | Self::Budget(message) | Self::Finished(message) => Some(message),
            Self::Closed { message, .. } | Self::Timeout { message, .. } => message,
            Self::Encode(_) | Self::Io(_) | Self::Unsupported => None,
        }
    }

    /// Whether there was no room, so that a second try on the same session may succeed.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Budget(_))
    }

    /// Whether the session is closing or closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// The same with another message: to forget it, or to bring errors of several kinds of messages together.
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
    /// For what carried no message that could come back.
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

impl<Out> SendError<Payload<Out>> {
    /// What went in as a message comes back as one.
    pub(crate) fn of_message(self) -> SendError<Out> {
        self.map(|payload| match payload {
            Payload::Message(message) => message,
            other => unreachable!("a message went in, not {other:?}"),
        })
    }
}

impl<Out> fmt::Display for SendError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the session's queue is full"),
            Self::Budget(_) => f.write_str("the memory budget of sessions is used up"),
            Self::Closed { reason, .. } => write!(f, "the session is closed: {reason}"),
            Self::Finished(_) => f.write_str("the session has ended its own direction"),
            Self::Timeout { begun: false, .. } => {
                f.write_str("nothing of the message had left in time")
            }
            Self::Timeout { begun: true, .. } => {
                f.write_str("not all of the message had left in time")
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

/// What the driver reports of something that it could not send.
#[derive(Debug)]
pub(crate) enum SendFailure<Out> {
    Closed(Option<Payload<Out>>),
    Encode(SharedError),
    Io(SharedError),
    Unsupported,
}
