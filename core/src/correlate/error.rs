//! Errors of requests.

use std::{error::Error, fmt};

use crate::connection::{CloseReason, SharedError};

/// Delivery of a failed request: whether the peer may have received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No byte was or will be given to the transport. The request can safely be retried on another
    /// session.
    NotSent,
    /// The request is queued, or some bytes were given to the transport. The peer may have
    /// received it, or may still receive it.
    Unknown,
    /// The transport was flushed after the last byte. The peer has received the request, unless it
    /// was lost on the way.
    Sent,
}

/// Error of a request without a response. A message that was not accepted is returned.
///
/// It is `Clone` if the message is, so that layers around a client can pass one error to
/// several callers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RequestError<Out> {
    /// The session's stack has no `CorrelateLayer`, or one for another type of responses. The
    /// layer must be between `CodecLayer` and `SessionLayer` (design.md: Why does a request
    /// without `CorrelateLayer` fail at run time?).
    NoLayer(Out),
    /// The maximum number of requests is in flight. The caller should back off, or raise
    /// `with_in_flight`. Where responses come in order, abandoned requests
    /// (`CorrelateLayer::in_order`) are counted as well.
    Full(Out),
    /// The `MemoryBudget` that the session shares with others is used up. The caller should back
    /// off and try again.
    Budget(Out),
    /// This side ended its direction with [`finish`](crate::Session::finish). The session sends no
    /// more requests.
    Finished(Out),
    /// The session is closing or closed or the peer has ended its direction, so there will be no
    /// response. A client waits for its reconnect, and may retry a request with
    /// `Delivery::NotSent`.
    Closed {
        /// The message, if no byte was given to the transport.
        message: Option<Out>,
        /// Delivery of the request.
        delivery: Delivery,
        /// Reason of the close, or [`CloseReason::PeerClosed`] if the peer has ended its direction.
        reason: CloseReason,
    },
    /// No response arrived before the deadline. A late response will be dropped and counted.
    Deadline {
        /// The message, if it was not queued because the session's queue was full until the
        /// deadline.
        message: Option<Out>,
        /// Delivery of the request.
        delivery: Delivery,
    },
    /// The codec refused the message. No byte was sent and the session continues.
    Encode(SharedError),
    /// No session can take the request, and none will: the client has stopped or has given up, or
    /// its stack has no suitable `CorrelateLayer`. The source names the cause.
    Unavailable(SharedError),
}

impl<Out> RequestError<Out> {
    /// Returns the message if the error contains it.
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

    /// Returns the delivery of the request, which decides whether it may be retried.
    #[must_use]
    pub const fn delivery(&self) -> Delivery {
        match self {
            Self::Closed { delivery, .. } | Self::Deadline { delivery, .. } => *delivery,
            Self::NoLayer(_)
            | Self::Full(_)
            | Self::Budget(_)
            | Self::Finished(_)
            | Self::Encode(_)
            | Self::Unavailable(_) => Delivery::NotSent,
        }
    }

    /// Returns `true` if the session is closing or closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Returns `true` if no response arrived before the deadline.
    #[must_use]
    pub const fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

impl<Out> fmt::Display for RequestError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, delivery) = match self {
            Self::NoLayer(_) => {
                return f.write_str(
                    "the session's stack has no `CorrelateLayer` for responses of this type between `CodecLayer` and `SessionLayer`",
                );
            }
            Self::Full(_) => return f.write_str("too many requests are in flight"),
            Self::Budget(_) => return f.write_str("the memory budget is used up"),
            Self::Finished(_) => return f.write_str("this side has ended its direction"),
            Self::Encode(_) => return f.write_str("the request could not be encoded"),
            Self::Unavailable(_) => return f.write_str("no session can take the request"),
            Self::Closed {
                delivery, reason, ..
            } => {
                write!(f, "the session is closed: {reason}")?;
                ("", delivery)
            }
            Self::Deadline { delivery, .. } => ("no response in time", delivery),
        };
        f.write_str(text)?;
        f.write_str(match delivery {
            Delivery::NotSent => "; the request was not sent",
            Delivery::Unknown => "; the request may have been sent",
            Delivery::Sent => "; the request was sent",
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
