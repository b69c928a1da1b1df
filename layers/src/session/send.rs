//! Sending: the futures and their outcomes.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    Session,
    outbox::{TicketId, WaiterId},
    payload::Payload,
    signal::Signal,
};
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
    /// The queue is full, or the write buffer above its high watermark: the peer reads more slowly than is sent. Back
    /// off and try again, or wait with [`feed`](Session::feed).
    Full(Out),
    /// The session is closing or closed. A client waits for its reconnect.
    Closed {
        /// The message, where none of it was given to the transport.
        message: Option<Out>,
        /// Why the session closed.
        reason: CloseReason,
    },
    /// The codec refused the message; nothing of it was sent, and the session goes on.
    Encode(SharedError),
    /// The transport failed after bytes of the message were given to it: the peer may or may not have it.
    Io(SharedError),
}

impl<Out> SendError<Out> {
    /// The message, where it was handed back.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::Full(message) => Some(message),
            Self::Closed { message, .. } => message,
            Self::Encode(_) | Self::Io(_) => None,
        }
    }

    /// Whether a second try on the same session may succeed.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Whether the session is closing or closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

impl<Out> fmt::Display for SendError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the session's queue is full"),
            Self::Closed { reason, .. } => write!(f, "the session is closed: {reason}"),
            Self::Encode(_) => f.write_str("the message could not be encoded"),
            Self::Io(_) => f.write_str("the transport failed before the message was flushed"),
        }
    }
}

impl<Out: fmt::Debug> Error for SendError<Out> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Encode(source) | Self::Io(source) => Some(&**source),
            Self::Full(_) | Self::Closed { .. } => None,
        }
    }
}

/// What the driver reports of a message that it could not send.
#[derive(Debug)]
pub(crate) enum SendFailure<Out> {
    Closed(Option<Payload<Out>>),
    Encode(SharedError),
    Io(SharedError),
}

/// The future of [`Session::feed`].
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Feeding<'a, Out> {
    session: &'a Session<Out>,
    payload: Option<Payload<Out>>,
    waiter: Option<WaiterId>,
}

impl<'a, Out> Feeding<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self {
            session,
            payload: Some(Payload::Message(message)),
            waiter: None,
        }
    }

    fn poll_push(
        &mut self,
        cx: &Context<'_>,
        attended: bool,
    ) -> Poll<Result<Option<TicketId>, SendError<Out>>> {
        assert!(
            self.payload.is_some(),
            "a send future was polled after it was ready"
        );
        if self.session.is_closing() {
            return Poll::Ready(Err(self.closed()));
        }
        let pushed =
            self.session
                .outbox()
                .poll_push(cx, &mut self.payload, &mut self.waiter, attended);
        match ready!(pushed) {
            Ok(ticket) => {
                self.session.signal().raise(Signal::MESSAGES);
                Poll::Ready(Ok(ticket))
            }
            Err(_) => Poll::Ready(Err(self.closed())),
        }
    }

    fn closed(&mut self) -> SendError<Out> {
        let message = self.payload.take().and_then(Payload::into_message);
        self.session.closed_error(message)
    }
}

// the message is moved, never pinned
impl<Out> Unpin for Feeding<'_, Out> {}

impl<Out> Future for Feeding<'_, Out> {
    type Output = Result<(), SendError<Out>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_push(cx, false).map_ok(|_| ())
    }
}

impl<Out> Drop for Feeding<'_, Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().leave(waiter);
        }
    }
}

impl<Out> fmt::Debug for Feeding<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeding")
            .field("queued", &self.payload.is_none())
            .finish_non_exhaustive()
    }
}

/// The future of [`Session::send`].
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Sending<'a, Out> {
    feed: Feeding<'a, Out>,
    ticket: Option<TicketId>,
}

impl<'a, Out> Sending<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self {
            feed: Feeding::new(session, message),
            ticket: None,
        }
    }
}

impl<Out> Future for Sending<'_, Out> {
    type Output = Result<Sent, SendError<Out>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ticket = match this.ticket {
            Some(ticket) => ticket,
            None => match ready!(this.feed.poll_push(cx, true))? {
                Some(ticket) => *this.ticket.insert(ticket),
                None => unreachable!("an attended message has a ticket"),
            },
        };
        let session = this.feed.session;
        let outcome = ready!(session.outbox().poll_outcome(cx, ticket));
        this.ticket = None;
        Poll::Ready(match outcome {
            Ok(bytes) => Ok(Sent { bytes }),
            Err(SendFailure::Closed(payload)) => {
                Err(session.closed_error(payload.and_then(Payload::into_message)))
            }
            Err(SendFailure::Encode(source)) => Err(SendError::Encode(source)),
            Err(SendFailure::Io(source)) => Err(SendError::Io(source)),
        })
    }
}

impl<Out> Drop for Sending<'_, Out> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.feed.session.outbox().abandon(ticket);
        }
    }
}

impl<Out> fmt::Debug for Sending<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending")
            .field("queued", &self.ticket.is_some())
            .finish_non_exhaustive()
    }
}
