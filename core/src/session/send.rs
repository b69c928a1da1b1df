//! The futures of sending: into the queue, and from there until the outcome is known.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    Session,
    error::{SendError, SendFailure, Sent},
    outbox::{Refusal, TakenBack, TicketId, WaiterId},
    payload::Payload,
};

/// On its way into the queue.
pub(super) struct Entry<'a, Out> {
    session: &'a Session<Out>,
    payload: Option<Payload<Out>>,
    waiter: Option<WaiterId>,
}

impl<'a, Out> Entry<'a, Out> {
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

impl<Out> Future for Entry<'_, Out> {
    type Output = Result<(), SendError<Payload<Out>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_push(cx, false).map_ok(|_| ())
    }
}

impl<Out> Drop for Entry<'_, Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().leave(waiter);
        }
    }
}

// what is sent is moved, never pinned
impl<Out> Unpin for Entry<'_, Out> {}

/// Sends a payload of any kind and waits for its outcome.
///
/// Dropped before there was room it sends nothing, dropped later the payload is sent all the same.
pub(super) struct Delivery<'a, Out> {
    entry: Entry<'a, Out>,
    ticket: Option<TicketId>,
}

impl<'a, Out> Delivery<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, payload: Payload<Out>) -> Self {
        Self {
            entry: Entry::new(session, payload),
            ticket: None,
        }
    }

    /// The time is over: takes the payload back, where that can still be done.
    pub(super) fn give_up(&mut self) -> Result<Sent, SendError<Payload<Out>>> {
        let timeout = |message, begun| Err(SendError::Timeout { message, begun });
        let Some(ticket) = self.ticket.take() else {
            return timeout(self.entry.payload.take(), false);
        };
        match self.entry.session.outbox().take_back(ticket) {
            TakenBack::Payload(payload) => timeout(Some(payload), false),
            TakenBack::Outcome(outcome) => self.learn(outcome),
            TakenBack::Not { begun } => timeout(None, begun),
        }
    }

    fn learn(
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

impl<Out> Future for Delivery<'_, Out> {
    type Output = Result<Sent, SendError<Payload<Out>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ticket = match this.ticket {
            Some(ticket) => ticket,
            None => match ready!(this.entry.poll_push(cx, true))? {
                Some(ticket) => *this.ticket.insert(ticket),
                None => unreachable!("what is attended has a ticket"),
            },
        };
        let outcome = ready!(this.entry.session.outbox().poll_outcome(cx, ticket));
        this.ticket = None;
        Poll::Ready(this.learn(outcome))
    }
}

impl<Out> Drop for Delivery<'_, Out> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.entry.session.outbox().abandon(ticket);
        }
    }
}

/// The future of [`Session::feed`].
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Feeding<'a, Out>(Entry<'a, Out>);

impl<'a, Out> Feeding<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self(Entry::new(session, Payload::Message(message)))
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

/// The future of [`Session::send`].
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Sending<'a, Out>(Delivery<'a, Out>);

impl<'a, Out> Sending<'a, Out> {
    pub(super) const fn new(session: &'a Session<Out>, message: Out) -> Self {
        Self(Delivery::new(session, Payload::Message(message)))
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
