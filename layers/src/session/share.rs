//! What is offered to a session by those who do not wait for it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Session,
    outbox::{Refusal, WaiterId},
    payload::Payload,
    shared::SharedMessage,
    signal::Signal,
};
use crate::CloseReason;

/// What to do with a session that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Wait.
    Wait,
    /// Drop the message.
    DropNewest,
    /// Drop the oldest.
    DropOldest,
    /// Close.
    Close,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Delivered,
    Displaced,
    Dropped,
    Closed,
}

impl<Out> Session<Out> {
    pub(crate) fn offer_shared(
        &self,
        message: &Arc<SharedMessage<Out>>,
        policy: SlowConsumer,
    ) -> Option<Offered> {
        if self.is_closing() {
            return Some(Offered::Closed);
        }
        let payload = Payload::Shared(Arc::clone(message));
        let pushed = self
            .outbox()
            .try_push(payload)
            .or_else(|refused| match refused {
                (Refusal::Full, payload) => self.outbox().try_push_beyond(payload, self.burst()),
                refused => Err(refused),
            });
        match pushed {
            Ok(()) => {
                self.signal().raise(Signal::MESSAGES);
                Some(Offered::Delivered)
            }
            Err((Refusal::Closed, _)) => Some(Offered::Closed),
            Err((Refusal::Full, _)) => match policy {
                SlowConsumer::Wait => None,
                SlowConsumer::Close => {
                    self.close_with(CloseReason::SlowConsumer);
                    Some(Offered::Closed)
                }
                _ => Some(Offered::Dropped),
            },
        }
    }
}

/// How many messages for many may wait for a session's turn, whatever its bound.
const BURST: u64 = 1024;
/// How many bytes they may come to, by what its messages have come to until now.
const BURST_BYTES: u64 = 1024 * 1024;

impl<Out> Session<Out> {
    /// How many messages for many may wait for the driver's turn.
    ///
    /// The bound in messages is for those that are the session's own. Messages for many are there once for all of them,
    /// and they come by the page: as long as the session is not known to be slow, they wait until it has had its turn.
    fn burst(&self) -> usize {
        let stats = self.stats();
        let mean = stats.bytes_out / stats.messages_out.max(1);
        (BURST_BYTES / mean.max(1)).min(BURST) as usize
    }
}

/// A message for many that waits for room in the queue of one session.
pub(crate) struct Waiting<Out> {
    session: Session<Out>,
    payload: Option<Payload<Out>>,
    waiter: Option<WaiterId>,
}

impl<Out> Waiting<Out> {
    pub(crate) fn new(session: Session<Out>, message: Arc<SharedMessage<Out>>) -> Self {
        Self {
            session,
            payload: Some(Payload::Shared(message)),
            waiter: None,
        }
    }

    /// Ready when it is queued, or `false` when the session closes.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let Self {
            session,
            payload,
            waiter,
        } = self;
        if session.is_closing() {
            return Poll::Ready(false);
        }
        session
            .outbox()
            .poll_push(cx, payload, waiter, false)
            .map(|pushed| {
                if pushed.is_ok() {
                    session.signal().raise(Signal::MESSAGES);
                }
                pushed.is_ok()
            })
    }
}

impl<Out> Drop for Waiting<Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().leave(waiter);
        }
    }
}
