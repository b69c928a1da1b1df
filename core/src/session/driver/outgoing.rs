//! Outgoing messages and their outcomes.

use std::collections::VecDeque;

use super::Driver;
use crate::{
    connection::{HandleExt, SharedError},
    panic::catch_and_log,
    session::{
        outbox::{Batch, DROPPING_MESSAGE, Queued, Taken, TicketId, pop_first, request_number},
        payload::{Payload, SendFailure},
    },
};

/// A payload to send, with the ticket for its outcome.
#[derive(Debug)]
pub struct Outgoing<Out> {
    /// Payload to send.
    pub payload: Payload<Out>,
    /// Ticket for [`Driver::complete`] or [`Driver::fail`], if a sender waits for the outcome.
    pub ticket: Option<Ticket>,
}

impl<Out> Outgoing<Out> {
    /// Returns the message unless the payload is shared or has none.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        self.payload.into_message()
    }
}

impl<Out> From<Queued<Out>> for Outgoing<Out> {
    fn from(
        Queued {
            payload,
            completion,
        }: Queued<Out>,
    ) -> Self {
        Self {
            payload,
            ticket: completion.ticket().map(Ticket),
        }
    }
}

/// Identifies a send whose caller waits for the outcome. If the ticket is dropped, the caller
/// waits until the driver is dropped.
#[derive(Debug)]
#[must_use = "the sender waits for this outcome"]
pub struct Ticket(TicketId);

impl Ticket {
    /// Returns `true` if the sender waits for this outcome alone. Such a sender may give up, and
    /// then needs to know whether the send has [begun](Driver::record_begun). The sender of a
    /// request waits for the response instead.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        request_number(self.0).is_none()
    }
}

impl<Out> Driver<Out> {
    /// Returns the next payload to send.
    #[inline]
    pub fn next_outgoing(&mut self) -> Option<Outgoing<Out>> {
        if self.batch_len() > 0 {
            self.unreported = true;
        } else if self.raised {
            self.raised = false;
            let (first, taken) = self.session.outbox().take_first(&mut self.batch)?;
            self.unreported |= taken != Taken::Alone;
            self.has_shared = taken == Taken::WithShared;
            return Some(first.into());
        }
        let batch = self.batch.get_mut()?;
        let next = if self.has_shared {
            pop_first(batch)
        } else {
            batch.pop_front()
        };
        Some(next?.into())
    }

    /// Returns `true` if [`next_outgoing`](Self::next_outgoing) may return a payload.
    #[inline]
    pub fn has_outgoing(&self) -> bool {
        self.raised || self.batch_len() > 0
    }

    /// Returns `true` if handlers of this session have queued messages that may not be encoded
    /// yet. The messages leave before the handlers' replies.
    #[inline]
    #[doc(hidden)]
    pub const fn has_own_messages(&self) -> bool {
        self.own
    }

    /// Records that all queued messages are encoded.
    #[inline]
    #[doc(hidden)]
    pub const fn clear_own_messages(&mut self) {
        self.own = false;
    }

    /// Fails every queued message and counts it as unsent. No message is accepted afterwards.
    ///
    /// Senders receive `source` or the information that the session closes.
    #[doc(hidden)]
    pub fn fail_queued(&mut self, source: Option<&SharedError>) {
        let left = self.batch.take();
        (self.raised, self.own, self.has_shared) = (false, false, false);
        let outbox = self.session.outbox();
        let (watched, messages) = outbox.fail_all(left, |payload| match (source, payload) {
            (Some(source), None) => SendFailure::Io(source.clone()),
            (_, payload) => SendFailure::Closed(payload),
        });
        for (number, payload) in watched {
            let failure = SendFailure::Closed(Some(payload));
            // if the requester has given up, this drops the message
            catch_and_log(DROPPING_MESSAGE, || {
                self.session.requests().fail(number, failure);
            });
        }
        if messages > 0 {
            self.record_unsent(messages, 0);
        }
    }

    /// Returns the number of messages that were taken and not encoded.
    #[inline]
    pub(super) fn batch_len(&self) -> usize {
        self.batch.get().map_or(0, VecDeque::len)
    }

    /// Sets whether the write buffer is above its high watermark, and reports that returned
    /// messages are encoded. Wakes senders that have room now. Cheap if nothing has changed.
    /// Returns `true` if a waiting sender was woken.
    #[inline]
    pub fn set_backpressure(&mut self, blocked: bool) -> bool {
        if !self.unreported && blocked == self.blocked {
            return false;
        }
        self.report(blocked)
    }

    #[inline(never)]
    fn report(&mut self, blocked: bool) -> bool {
        self.note_queue_change();
        self.unreported = false;
        if blocked != self.blocked {
            self.blocked = blocked;
            self.handle.mark_backpressured(blocked);
        }
        self.raised |= self.batch_len() > 0;
        match self.batch.get_mut() {
            Some(left) => self.session.outbox().report(left, blocked),
            None => self.session.outbox().report(&mut Batch::new(), blocked),
        }
    }

    /// Records that the transport has taken bytes of this message, but not all bytes or without a
    /// flush.
    #[doc(hidden)]
    pub fn record_begun(&mut self, ticket: &Ticket) {
        if ticket.is_awaited() {
            self.session.outbox().begun(ticket.0);
        }
    }

    /// Completes a message that was flushed. `bytes` is its encoded size.
    pub fn complete(&mut self, ticket: &Ticket, bytes: usize) {
        match request_number(ticket.0) {
            Some(number) => self
                .session
                .requests()
                .record_sent(number, self.input_ended),
            None => self.session.outbox().complete(ticket.0, Ok(bytes)),
        }
    }

    /// Fails a message that the codec refused.
    pub fn fail(&mut self, ticket: &Ticket, source: SharedError) {
        if let Some(number) = request_number(ticket.0) {
            self.notify_refused(number);
        }
        self.failed(ticket, SendFailure::Encode(source));
    }

    #[cold]
    fn failed(&self, ticket: &Ticket, failure: SendFailure<Out>) {
        match request_number(ticket.0) {
            Some(number) => self.session.requests().fail(number, failure),
            None => self.session.outbox().complete(ticket.0, Err(failure)),
        }
    }

    /// Fails a message that was encoded because the transport sends nothing more.
    #[doc(hidden)]
    pub fn fail_io(&mut self, ticket: &Ticket, source: SharedError) {
        self.failed(ticket, SendFailure::Io(source));
    }

    /// Completes a [`Payload::Finish`]: this side's direction has ended.
    #[doc(hidden)]
    pub fn complete_finish(&mut self, ticket: &Ticket) {
        self.handle.mark_finished();
        self.complete(ticket, 0);
    }

    /// Fails a [`Payload::Finish`] that the transport does not support. Messages are accepted
    /// again.
    #[doc(hidden)]
    pub fn fail_finish(&mut self, ticket: &Ticket) {
        let outbox = self.session.outbox();
        outbox.reopen();
        outbox.complete(ticket.0, Err(SendFailure::Unsupported));
    }

    /// Sets how many messages may wait for the encoder. The default is
    /// [`DEFAULT_QUEUE_CAPACITY`](super::DEFAULT_QUEUE_CAPACITY).
    pub fn set_queue_capacity(&mut self, messages: u32) {
        self.session.outbox().set_capacity(messages.max(1));
    }

    /// Sets how many bytes of broadcasts may wait for the encoder. The default is
    /// [`DEFAULT_QUEUE_BYTES`](super::DEFAULT_QUEUE_BYTES). The maximum is 4 GiB.
    #[doc(hidden)]
    pub fn set_queue_bytes(&mut self, bytes: usize) {
        self.session.outbox().set_shared_bytes(bytes);
    }

    /// Closes the queue. No new message is accepted. Accepted messages may still be sent.
    #[doc(hidden)]
    pub fn close_queue(&mut self) {
        self.session.outbox().close();
        self.raised = true;
        self.end_input();
    }

    /// Counts messages that were accepted for sending and not encoded, and bytes that were encoded
    /// and not taken by the transport.
    #[cold]
    #[doc(hidden)]
    pub fn record_unsent(&self, messages: u64, bytes: u64) {
        self.handle.count_losses(|losses| {
            losses.unsent_messages += messages;
            losses.unsent_bytes += bytes;
        });
    }

    /// Counts messages whose handlers were not called or did not finish, and bytes that were
    /// received and not decoded.
    #[cold]
    #[doc(hidden)]
    pub fn record_unhandled(&self, messages: u64, bytes: u64) {
        self.handle.count_losses(|losses| {
            losses.unhandled_messages += messages;
            losses.unhandled_bytes += bytes;
        });
    }

    /// Records that the peer ended its direction after this side, without a reset.
    #[cold]
    #[doc(hidden)]
    pub fn record_orderly_end(&self) {
        self.handle.count_losses(|losses| losses.orderly = true);
    }

    /// Counts messages that were dropped instead of sent.
    #[doc(hidden)]
    pub fn record_dropped(&self, messages: u64) {
        self.handle.count_dropped(messages);
    }
}
