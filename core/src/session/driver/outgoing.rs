//! What is to be sent, and what becomes of it.

use super::Driver;
use crate::{
    connection::{SharedError, contain},
    session::{
        error::SendFailure,
        outbox::{Batch, DROPPING, Queued, Taken, TicketId, pop_first, watched_number},
        payload::Payload,
    },
};

/// What to send, and whom to tell of its outcome.
#[derive(Debug)]
pub struct Outgoing<Out> {
    /// What to send.
    pub payload: Payload<Out>,
    /// There is one when a sender waits for the outcome; give it to [`Driver::complete`] or [`Driver::fail`].
    pub ticket: Option<Ticket>,
}

impl<Out> Outgoing<Out> {
    /// The message, where it is one of this session alone.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        self.payload.into_message()
    }
}

impl<Out> From<Queued<Out>> for Outgoing<Out> {
    fn from(Queued { payload, attention }: Queued<Out>) -> Self {
        Self {
            payload,
            ticket: attention.ticket().map(Ticket),
        }
    }
}

/// Names a send whose caller waits for its outcome. Dropped, the caller waits until the driver is dropped.
#[derive(Debug)]
#[must_use = "the sender waits for this outcome"]
pub struct Ticket(TicketId);

impl Ticket {
    /// Whether the sender waits for this outcome alone, and may give up and ask whether it has [begun](Driver::begun). A
    /// request's does not: it waits for the answer.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        watched_number(self.0).is_none()
    }
}

impl<Out> Driver<Out> {
    /// What to send next.
    #[inline]
    pub fn next_outgoing(&mut self) -> Option<Outgoing<Out>> {
        if self.left() > 0 {
            self.unreported = true;
        } else if self.raised {
            self.raised = false;
            let (first, taken) = self.session.outbox().take_first(&mut self.batch)?;
            self.unreported |= taken != Taken::Alone;
            self.has_shared = taken == Taken::WithShared;
            return Some(first.into());
        }
        let batch = self.batch.as_mut()?;
        let next = if self.has_shared {
            pop_first(batch)
        } else {
            batch.pop_front()
        };
        Some(next?.into())
    }

    /// Whether [`next_outgoing`](Self::next_outgoing) may give a message.
    #[inline]
    pub fn has_outgoing(&self) -> bool {
        self.raised || self.left() > 0
    }

    /// Returns `true` if handlers of this session have queued messages that may not be encoded yet.
    /// The messages leave before the handlers' replies.
    #[inline]
    pub const fn has_own_messages(&self) -> bool {
        self.own
    }

    /// Records that all queued messages are encoded.
    #[inline]
    pub const fn encoded_all(&mut self) {
        self.own = false;
    }

    /// Fails every message that is queued, and counts them as unsent. No message is accepted
    /// afterwards.
    ///
    /// Senders get `source`, or learn that the session closes.
    pub fn fail_queued(&mut self, source: Option<&SharedError>) {
        let left = self.batch.take().map(|batch| *batch).unwrap_or_default();
        (self.raised, self.own, self.has_shared) = (false, false, false);
        let outbox = self.session.outbox();
        let (watched, messages) = outbox.fail_all(left, |payload| match (source, payload) {
            (Some(source), None) => SendFailure::Io(source.clone()),
            (_, payload) => SendFailure::Closed(payload),
        });
        for (number, payload) in watched {
            let failure = SendFailure::Closed(Some(payload));
            // where the requester has given up, this drops the message
            contain(DROPPING, || self.session.watched().fail(number, failure));
        }
        if messages > 0 {
            self.unsent(messages, 0);
        }
    }

    /// How many messages are taken and not encoded.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.len())
    }

    /// Tells the senders what room there is: whether the write buffer is above its high watermark, and that messages
    /// given out so far have been encoded. Cheap where nothing has changed. `true` when a sender that waits was woken.
    #[inline]
    pub fn settle(&mut self, blocked: bool) -> bool {
        if !self.unreported && blocked == self.blocked {
            return false;
        }
        self.report(blocked)
    }

    #[inline(never)]
    fn report(&mut self, blocked: bool) -> bool {
        self.uncharge();
        self.unreported = false;
        if blocked != self.blocked {
            self.blocked = blocked;
            self.handle.mark_backpressured(blocked);
        }
        self.raised |= self.left() > 0;
        match &mut self.batch {
            Some(left) => self.session.outbox().report(left, blocked),
            None => self.session.outbox().report(&mut Batch::new(), blocked),
        }
    }

    /// The transport has taken bytes of this message, though not all of it or without a flush.
    pub fn begun(&mut self, ticket: &Ticket) {
        if ticket.is_awaited() {
            self.session.outbox().begun(ticket.0);
        }
    }

    /// A message was flushed; it took so many bytes.
    pub fn complete(&mut self, ticket: &Ticket, bytes: usize) {
        match watched_number(ticket.0) {
            Some(number) => self.session.watched().leave(number, self.input_ended),
            None => self.session.outbox().complete(ticket.0, Ok(bytes)),
        }
    }

    /// A message was refused by the codec.
    pub fn fail(&mut self, ticket: &Ticket, source: SharedError) {
        if let Some(number) = watched_number(ticket.0) {
            self.refused(number);
        }
        self.failed(ticket, SendFailure::Encode(source));
    }

    #[cold]
    fn failed(&self, ticket: &Ticket, failure: SendFailure<Out>) {
        match watched_number(ticket.0) {
            Some(number) => self.session.watched().fail(number, failure),
            None => self.session.outbox().complete(ticket.0, Err(failure)),
        }
    }

    /// A message was encoded, and the transport sends nothing more.
    pub fn cannot_send(&mut self, ticket: &Ticket, source: SharedError) {
        self.failed(ticket, SendFailure::Io(source));
    }

    /// Our direction has ended, as a [`Payload::Finish`] asked.
    pub fn finished(&mut self, ticket: &Ticket) {
        self.handle.mark_finished();
        self.complete(ticket, 0);
    }

    /// A [`Payload::Finish`] asked for what the transport cannot do: messages are taken again.
    pub fn cannot_finish(&mut self, ticket: &Ticket) {
        let outbox = self.session.outbox();
        outbox.reopen();
        outbox.complete(ticket.0, Err(SendFailure::Unsupported));
    }

    /// How many messages may wait for the encoder.
    pub fn set_queue_capacity(&mut self, messages: u32) {
        self.session.outbox().set_capacity(messages.max(1));
    }

    /// Sets how many bytes of broadcasts may wait for the encoder: see
    /// [`DEFAULT_QUEUE_BYTES`](super::DEFAULT_QUEUE_BYTES). More than 4 GiB means 4 GiB.
    pub fn set_queue_bytes(&mut self, bytes: usize) {
        self.session.outbox().set_shared_bytes(bytes);
    }

    /// No new message is taken from here on; what was taken may still be sent.
    pub fn close_queue(&mut self) {
        self.session.outbox().close();
        self.raised = true;
        self.input_ended();
    }

    /// Counts what was accepted for sending and not handed to the transport: messages that were not
    /// encoded, and bytes that were.
    #[cold]
    pub fn unsent(&self, messages: u64, bytes: u64) {
        self.handle.count_losses(|losses| {
            losses.unsent_messages += messages;
            losses.unsent_bytes += bytes;
        });
    }

    /// Counts what was received and not handled: messages whose handlers were not called or did not
    /// finish, and bytes that were not decoded.
    #[cold]
    pub fn unhandled(&self, messages: u64, bytes: u64) {
        self.handle.count_losses(|losses| {
            losses.unhandled_messages += messages;
            losses.unhandled_bytes += bytes;
        });
    }

    /// Records that the peer ended its direction after ours, without a reset.
    #[cold]
    pub fn ended_orderly(&self) {
        self.handle.count_losses(|losses| losses.orderly = true);
    }

    /// So many messages were dropped that were to be sent.
    pub fn dropped(&self, messages: u64) {
        self.handle.count_dropped(messages);
    }
}
