//! Messages for many, in the queue of one session.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{Session, outbox::WaiterId, payload::Payload, shared::SharedMessage};

/// How many messages for many may wait for a session's turn.
const BURST: u64 = 1024;

/// How many bytes they may come to, going by what the session has sent until now.
const BURST_BYTES: u64 = 1024 * 1024;

impl<Out> Session<Out> {
    /// How many messages may wait for the driver's turn, where the next is one for many.
    ///
    /// The queue's bound is for messages of the session's own. Those for many are there once for all sessions, and they
    /// come by the page, many before the driver has its next turn: that is no sign of a slow peer, as a write buffer above
    /// its high watermark is.
    pub(super) fn burst(&self) -> usize {
        let stats = self.stats();
        let mean = (stats.bytes_out / stats.messages_out.max(1)).max(1);
        usize::try_from((BURST_BYTES / mean).min(BURST)).unwrap_or(usize::MAX)
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

    /// Ready with `true` when it is queued, with `false` when the session closes before.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let Self {
            session,
            payload,
            waiter,
        } = self;
        if session.is_closing() {
            return Poll::Ready(false);
        }
        let pushed = session.outbox().poll_push(cx, payload, waiter, false);
        pushed.map(|pushed| {
            if pushed.is_ok() {
                session.raise_messages();
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
