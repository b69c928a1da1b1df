//! Why a request has no answer.

use std::{error::Error, fmt};

use crate::connection::{CloseReason, SharedError};

/// Whether a request that failed had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing of it was given to the transport, and nothing will be: it can safely be tried elsewhere.
    No,
    /// It is queued, or some of it was given to the transport: the peer may have it, or get it yet.
    Perhaps,
    /// The transport was flushed after its last byte: the peer has it, unless it was lost on the way.
    Yes,
}

/// A request has no answer. Where its message was not taken it is handed back.
///
/// It is `Clone` if the message is, so that layers around a client can pass one error to several
/// callers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RequestError<Out> {
    /// The session's stack has no `CorrelateLayer`, or one for answers of another type than was
    /// asked for. To be put between `CodecLayer` and `SessionLayer`.
    NoLayer(Out),
    /// As many requests are in flight as may be: back off, or raise
    /// `with_in_flight`. Where answers come in order,
    /// requests that were given up (`CorrelateLayer::in_order`) are among them.
    Full(Out),
    /// The `MemoryBudget` that the session shares with others is used up. Back off and try again.
    Budget(Out),
    /// Our direction was ended by [`finish`](crate::Session::finish): this session asks nothing more.
    Finished(Out),
    /// The session is closing or closed, or the peer has ended its direction, so that there will be no answer. A client
    /// waits for its reconnect, and tries again what has not `left`.
    Closed {
        /// The message, where none of it was given to the transport.
        message: Option<Out>,
        /// Whether it had left.
        left: Left,
        /// Why the session closed; [`CloseReason::PeerClosed`] where the peer has ended its direction.
        reason: CloseReason,
    },
    /// There was no answer in time. The one that may still come is dropped and counted.
    Deadline {
        /// The message, where it was not even queued: the session's queue was full all the time.
        message: Option<Out>,
        /// Whether it had left.
        left: Left,
    },
    /// The codec refused the message; nothing of it was sent, and the session goes on.
    Encode(SharedError),
    /// A client has no session for it, and will have none.
    Unavailable(SharedError),
}

impl<Out> RequestError<Out> {
    /// The message, where it was handed back.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::NoLayer(message)
            | Self::Full(message)
            | Self::Budget(message)
            | Self::Finished(message) => Some(message),
            Self::Closed { message, .. } | Self::Deadline { message, .. } => message,
            Self::Encode(_) | Self::Unavailable(_) => None,
        }
    }

    /// Whether the request had left: what decides about a second try.
    #[must_use]
    pub const fn left(&self) -> Left {
        match self {
            Self::Closed { left, .. } | Self::Deadline { left, .. } => *left,
            Self::NoLayer(_)
            | Self::Full(_)
            | Self::Budget(_)
            | Self::Finished(_)
            | Self::Encode(_)
            | Self::Unavailable(_) => Left::No,
        }
    }

    /// Whether the session is closing or closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether there was no answer in time.
    #[must_use]
    pub const fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

impl<Out> fmt::Display for RequestError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, left) = match self {
            Self::NoLayer(_) => {
                return f.write_str(
                    "the session's stack has no `CorrelateLayer` for answers of this type between `CodecLayer` and `SessionLayer`",
                );
            }
            Self::Full(_) => return f.write_str("too many requests are in flight"),
            Self::Budget(_) => return f.write_str("the memory budget is used up"),
            Self::Finished(_) => return f.write_str("our direction has ended"),
            Self::Encode(_) => return f.write_str("the request could not be encoded"),
            Self::Unavailable(_) => return f.write_str("there is no session to ask on"),
            Self::Closed { left, reason, .. } => {
                write!(f, "the session is closed: {reason}")?;
                ("", left)
            }
            Self::Deadline { left, .. } => ("no answer in time", left),
        };
        f.write_str(what)?;
        f.write_str(match left {
            Left::No => "; the request had not left",
            Left::Perhaps => "; the request may have left",
            Left::Yes => "; the request had left",
        })
    }
}

impl<Out: fmt::Debug> Error for RequestError<Out> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Encode(source) | Self::Unavailable(source) => Some(&**source),
            _ => None,
        }
    }
}
