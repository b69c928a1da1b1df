//! Futures of sends: first for a place in the queue, then for the outcome.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    Session,
    error::{SendError, Sent},
    outbox::{CancelResult, Refusal, TicketId},
    payload::{Payload, SendFailure},
};
use crate::sync::WaiterId;

/// Waits for a place in the queue.
pub(super) struct EnqueueFuture<'a, Out> {
    session: &'a Session<Out>,
    payload: Option<Payload<Out>>,
    waiter: Option<WaiterId>,
}

impl<'a, Out> EnqueueFuture<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, payload: Payload<Out>) -> Self {
        Self {
            session,
            payload: Some(payload),
            waiter: None,
        }
    }

    fn poll_push(
        &mut self,
        cx: &Context<'_>,
        attended: bool,
    ) -> Poll<Result<Option<TicketId>, SendError<Payload<Out>>>> {
        assert!(
            self.payload.is_some(),
            "a send future was polled after it was ready"
        );
        if self.session.is_closing() {
            return Poll::Ready(Err(self.refused(&Refusal::Closed)));
        }
        let pushed =
            self.session
                .outbox()
                .poll_push(cx, &mut self.payload, &mut self.waiter, attended);
        match ready!(pushed) {
            Ok(ticket) => {
                self.session.raise_messages();
                Poll::Ready(Ok(ticket))
            }
            Err(refusal) => Poll::Ready(Err(self.refused(&refusal))),
        }
    }

    fn refused(&mut self, refusal: &Refusal) -> SendError<Payload<Out>> {
        self.session.refused(refusal, self.payload.take())
    }
}

impl<Out> Future for EnqueueFuture<'_, Out> {
    type Output = Result<(), SendError<Payload<Out>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_push(cx, false).map_ok(|_| ())
    }
}

impl<Out> Drop for EnqueueFuture<'_, Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().cancel_push(waiter);
        }
    }
}

// the payload is moved, never pinned
impl<Out> Unpin for EnqueueFuture<'_, Out> {}

/// Sends a payload of any kind and waits for its outcome.
///
/// If it is dropped before there was room, nothing is sent. If it is dropped later, the
/// payload is still sent.
pub(super) struct SendFuture<'a, Out> {
    entry: EnqueueFuture<'a, Out>,
    ticket: Option<TicketId>,
}

impl<'a, Out> SendFuture<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, payload: Payload<Out>) -> Self {
        Self {
            entry: EnqueueFuture::new(session, payload),
            ticket: None,
        }
    }

    /// Cancels the send after a timeout. Removes the payload from the queue if the driver has not
    /// taken it.
    pub(super) fn give_up(&mut self) -> Result<Sent, SendError<Payload<Out>>> {
        let timeout = |message, begun| Err(SendError::Timeout { message, begun });
        let Some(ticket) = self.ticket.take() else {
            return timeout(self.entry.payload.take(), false);
        };
        match self.entry.session.outbox().take_back(ticket) {
            CancelResult::Payload(payload) => timeout(Some(payload), false),
            CancelResult::Outcome(outcome) => self.resolve(outcome),
            CancelResult::Not { begun } => timeout(None, begun),
        }
    }

    fn resolve(
        &self,
        outcome: Result<usize, SendFailure<Out>>,
    ) -> Result<Sent, SendError<Payload<Out>>> {
        match outcome {
            Ok(bytes) => Ok(Sent { bytes }),
            Err(SendFailure::Closed(payload)) => Err(self.entry.session.closed_error(payload)),
            Err(SendFailure::Encode(source)) => Err(SendError::Encode(source)),
            Err(SendFailure::Io(source)) => Err(SendError::Io(source)),
            Err(SendFailure::Unsupported) => Err(SendError::Unsupported),
        }
    }
}

impl<Out> Future for SendFuture<'_, Out> {
    type Output = Result<Sent, SendError<Payload<Out>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ticket = match this.ticket {
            Some(ticket) => ticket,
            None => match ready!(this.entry.poll_push(cx, true))? {
                Some(ticket) => *this.ticket.insert(ticket),
                None => unreachable!("a send with a waiting sender has a ticket"),
            },
        };
        let outcome = ready!(this.entry.session.outbox().poll_outcome(cx, ticket));
        this.ticket = None;
        Poll::Ready(this.resolve(outcome))
    }
}

impl<Out> Drop for SendFuture<'_, Out> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.entry.session.outbox().abandon(ticket);
        }
    }
}

/// Future of [`Session::feed`].
///
/// # Panics
///
/// Panics if it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Feeding<'a, Out>(EnqueueFuture<'a, Out>);

impl<'a, Out> Feeding<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self(EnqueueFuture::new(session, Payload::Message(message)))
    }
}

impl<Out> Future for Feeding<'_, Out> {
    type Output = Result<(), SendError<Out>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let queued = Pin::new(&mut self.0).poll(cx);
        queued.map_err(SendError::of_message)
    }
}

impl<Out> fmt::Debug for Feeding<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeding")
            .field("queued", &self.0.payload.is_none())
            .finish_non_exhaustive()
    }
}

/// Future of [`Session::send`].
///
/// # Panics
///
/// Panics if it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Sending<'a, Out>(SendFuture<'a, Out>);

impl<'a, Out> Sending<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self(SendFuture::new(session, Payload::Message(message)))
    }
}

impl<Out> Future for Sending<'_, Out> {
    type Output = Result<Sent, SendError<Out>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(outcome.map_err(SendError::of_message))
    }
}

impl<Out> fmt::Debug for Sending<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending")
            .field("queued", &self.0.ticket.is_some())
            .finish_non_exhaustive()
    }
}
