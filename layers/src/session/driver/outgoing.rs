//! What is to be sent, and what becomes of it.

use super::Driver;
use crate::{
    connection::SharedError,
    session::{
        error::SendFailure,
        outbox::{Batch, Queued, Taken, TicketId, pop_first, watched_number},
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

    /// Sets how many bytes of messages for many may wait for the encoder: see
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

    /// So many messages were dropped that were to be sent.
    pub fn dropped(&self, messages: u64) {
        self.handle.count_dropped(messages);
    }
}
