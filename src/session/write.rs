//! The writing half of a session: from messages to the transport, and the outcomes of sends.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use getty_layers::{SharedError, driver::Ticket};
use tower::BoxError;

use super::{buffers, clock::Clock, queue::Queue, timer::Timer, wire::Wire};
use crate::transport::Framing;

#[derive(Debug)]
pub(crate) struct Writer {
    /// Encoded and not yet taken by the transport.
    buf: BytesMut,
    /// How many bytes were encoded in all.
    encoded: u64,
    /// How many of them the transport took.
    taken: u64,
    /// How far the transport was with what it took, when it last had to wait.
    below: u64,
    /// How many messages were encoded since the driver was told.
    messages: u32,
    /// Something was written since the last complete flush.
    unflushed: bool,
    framing: Framing,
    /// Where the messages in `buf` end, by `encoded`, for a message transport.
    units: Queue<u64>,
    /// The sends whose outcome is due at the first flush after their last byte.
    due: Queue<Due>,
}

#[derive(Debug)]
struct Due {
    end: u64,
    bytes: usize,
    ticket: Ticket,
}

impl Writer {
    pub(crate) fn new(framing: Framing) -> Self {
        Self {
            buf: BytesMut::new(),
            encoded: 0,
            taken: 0,
            below: 0,
            messages: 0,
            unflushed: false,
            framing,
            units: Queue::new(),
            due: Queue::new(),
        }
    }

    /// How many encoded bytes wait for the transport.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether all that was encoded has been handed to the network.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed && self.is_written()
    }

    /// Encodes `message`, and leaves nothing behind when that fails.
    #[inline(always)]
    pub(crate) fn encode<W: Wire>(
        &mut self,
        wire: &mut W,
        message: W::Out,
    ) -> Result<usize, BoxError> {
        if self.buf.capacity() == 0 {
            self.buf = buffers::take();
        }
        let before = self.buf.len();
        if let Err(error) = wire.encode(message, &mut self.buf) {
            self.buf.truncate(before);
            return Err(error);
        }
        let bytes = self.buf.len() - before;
        self.encoded += bytes as u64;
        if self.framing != Framing::Stream {
            self.units.push_back(self.encoded);
        }
        self.messages += 1;
        Ok(bytes)
    }

    /// The message encoded last took so many bytes; `ticket` is told when they have left.
    pub(crate) fn attend(&mut self, ticket: Ticket, bytes: usize) {
        self.due.push_back(Due {
            end: self.encoded,
            bytes,
            ticket,
        });
    }

    /// The transport has something to flush that was not written here.
    pub(crate) const fn poke(&mut self) {
        self.unflushed = true;
    }

    /// Forgets what is encoded, for a transport that sends nothing more; whoever waits for its outcome learns that.
    #[cold]
    pub(crate) fn give_up<W: Wire>(&mut self, wire: &mut W, error: io::Error) {
        let error: SharedError = Arc::new(error);
        while let Some(due) = self.due.pop_front() {
            wire.driver().lost(&due.ticket, Arc::clone(&error));
        }
        while self.units.pop_front().is_some() {}
        self.buf.clear();
        self.taken = self.encoded;
        self.unflushed = false;
    }

    /// Drops what an encoder that panicked may have left of a message.
    pub(crate) fn repair(&mut self) {
        let whole = usize::try_from(self.encoded - self.taken).unwrap_or(usize::MAX);
        self.buf.truncate(whole);
    }

    /// Writes and flushes until all is handed to the network, and keeps `timer` informed.
    #[inline]
    pub(crate) fn poll_flush<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
        clock: &mut Clock,
        timer: &mut Timer,
    ) -> Poll<io::Result<()>> {
        if self.messages > 0 {
            let messages = std::mem::take(&mut self.messages);
            wire.driver().messages_out(messages.into());
        }
        let before = self.taken;
        let polled = self.poll_write(wire, cx);
        let moved = self.taken - before;
        if moved > 0 {
            let driver = wire.driver();
            driver.sent(moved, clock.moment(driver));
        }
        match polled {
            Poll::Pending => {
                let below = wire.written();
                timer.stalled(moved > 0 || below != self.below, clock);
                self.below = below;
            }
            Poll::Ready(_) => timer.flowed(),
        }
        polled
    }

    #[inline]
    fn poll_write<W: Wire>(&mut self, wire: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // nothing newer follows a send that waits until that is flushed
            if self.is_due() || (self.unflushed && self.is_written()) {
                if self.unflushed {
                    ready!(wire.poll_flush(cx))?;
                    self.unflushed = false;
                }
                self.report(wire);
            }
            if self.is_written() {
                if self.buf.capacity() > 0 {
                    buffers::give(std::mem::take(&mut self.buf));
                }
                return Poll::Ready(Ok(()));
            }
            let unit = match self.units.front() {
                Some(end) => usize::try_from(end - self.taken).unwrap_or(usize::MAX),
                None => self.buf.len(),
            };
            let taken = ready!(wire.poll_send(cx, &[IoSlice::new(&self.buf[..unit])]))?;
            if self.units.pop_front().is_none() && taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if taken == self.buf.len() {
                self.buf.clear(); // unlike an advance, this leaves the whole block to be used again
            } else {
                self.buf.advance(taken);
            }
            self.taken += taken as u64;
            self.unflushed = true;
        }
    }

    /// Whether the transport took all that was encoded.
    #[inline]
    fn is_written(&self) -> bool {
        self.buf.is_empty() && self.units.is_empty()
    }

    /// Whether the transport took the message of the next send that waits. A message of no bytes ends where the one
    /// before it does, so that units are looked at too.
    #[inline]
    fn is_due(&self) -> bool {
        self.due.front().is_some_and(|due| {
            due.end <= self.taken && self.units.front().is_none_or(|end| *end > due.end)
        })
    }

    /// Tells the outcome of what is flushed now.
    #[inline]
    fn report<W: Wire>(&mut self, wire: &mut W) {
        while self.is_due()
            && let Some(due) = self.due.pop_front()
        {
            wire.driver().complete(&due.ticket, due.bytes);
        }
    }
}
