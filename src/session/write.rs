//! The writing half of a session: from messages to the transport, and the outcomes of sends.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use getty_core::{
    SharedError,
    driver::{Payload, Ticket},
};
use tower::BoxError;

use super::{
    buffers,
    clock::Clock,
    segments::{self, Segments},
    timer::Timer,
    too_long::MessageTooLong,
    wire::Wire,
};
use crate::transport::Framing;

/// Shorter bytes are copied into the write buffer even where nothing else waits.
const LEAST_ALONE: usize = 512;

#[derive(Debug)]
pub(crate) struct Writer {
    /// Encoded and not yet taken by the transport, but for what waits by reference.
    buf: BytesMut,
    /// How many bytes were encoded in all.
    encoded: u64,
    /// How many of them the transport took.
    taken: u64,
    /// How many messages were encoded since the driver was told.
    messages: u32,
    /// Something was written since the last complete flush.
    unflushed: bool,
    /// Something beside the bytes in `buf` may have to be written, flushed or told.
    stirred: bool,
    framing: Framing,
    /// Size of the largest message that was [noted](Self::note_size): the exponent of the power of
    /// two that it does not exceed.
    largest: u8,
    /// The latest run of pushed messages: its end, by `encoded`, and its length in bytes.
    push_end: u32,
    push_len: u32,
    /// Made when it is first needed, and kept from there on.
    rare: Option<Box<Rare>>,
}

/// What a session over a stream that only answers has no use for.
#[derive(Debug, Default)]
struct Rare {
    /// What waits first, by reference: what came when nothing else waited.
    front: Bytes,
    /// What goes in between what is in the buffer, by reference.
    segments: Segments,
    /// Where the messages that wait end, by `encoded`, for a message transport.
    units: VecDeque<u64>,
    /// The sends whose outcome is due at the first flush after their last byte.
    due: VecDeque<Due>,
    /// Whoever waits for the end of our direction, behind all of these.
    end: Option<Ticket>,
    /// Runs of pushed messages that still wait, before the latest run. Each has its beginning and
    /// its end, by `encoded`.
    push_runs: VecDeque<(u64, u64)>,
    /// Total length of `push_runs`, in bytes.
    push_bytes: u64,
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
            messages: 0,
            unflushed: false,
            stirred: false,
            framing,
            largest: 0,
            push_end: 0,
            push_len: 0,
            rare: None,
        }
    }

    /// Marks all bytes encoded from `start` on as pushes, which senders have queued, and not as
    /// replies.
    #[inline]
    pub(crate) fn mark_pushed(&mut self, start: u64) {
        if self.latest_push() > 0 {
            return self.mark_pushed_again(start);
        }
        self.push_len = u32::try_from(self.encoded - start).unwrap_or(u32::MAX);
        self.push_end = low(self.encoded);
    }

    /// As [`mark_pushed`](Self::mark_pushed), while earlier pushes wait.
    #[cold]
    fn mark_pushed_again(&mut self, start: u64) {
        if start == self.encoded {
            return;
        }
        let len = u32::try_from(self.encoded - start).unwrap_or(u32::MAX);
        if self.push_end == low(start) {
            self.push_len = self.push_len.saturating_add(len);
        } else {
            let run = u64::from(self.latest_push());
            let end = self.taken + u64::from(self.push_end.wrapping_sub(low(self.taken)));
            let rare = self.rare.get_or_insert_with(Rare::boxed);
            rare.push_runs.push_back((end - run, end));
            rare.push_bytes += run;
            self.push_len = len;
        }
        self.push_end = low(self.encoded);
    }

    /// Returns how many bytes of the latest run of pushes wait.
    #[inline]
    fn latest_push(&self) -> u32 {
        // a run that was taken completely lies behind, less than 2 GiB as long as anything waits
        let waits = self.push_end.wrapping_sub(low(self.taken));
        if waits > u32::MAX / 2 {
            0
        } else {
            waits.min(self.push_len)
        }
    }

    /// Returns `true` if a message was pushed.
    pub(crate) const fn has_pushed(&self) -> bool {
        self.push_end != 0 || self.push_len != 0
    }

    /// Returns how many of the bytes that wait were pushed; the others are replies.
    pub(crate) fn pushed(&mut self) -> usize {
        let latest = u64::from(self.latest_push());
        let earlier = match &mut self.rare {
            Some(rare) if !rare.push_runs.is_empty() => rare.earlier_pushes(self.taken),
            _ => 0,
        };
        usize::try_from(latest + earlier).unwrap_or(usize::MAX)
    }

    /// Returns the size of the largest message that was [noted](Self::note_size), in bytes, rounded
    /// up to a power of two.
    pub(crate) const fn largest(&self) -> usize {
        1 << self.largest
    }

    /// Records the size of a message, for the reply limit. Pushes are recorded, and replies while
    /// the peer does not take all that waits.
    #[inline]
    pub(crate) fn note_size(&mut self, bytes: usize) {
        let bits = usize::BITS - bytes.saturating_sub(1).leading_zeros();
        // at most 64, and a message of 2^63 bytes is none
        self.largest = self.largest.max(bits.min(usize::BITS - 1) as u8);
    }

    /// Returns how many bytes were encoded in all.
    pub(crate) const fn encoded(&self) -> u64 {
        self.encoded
    }

    /// How many encoded bytes wait for the transport.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.encoded - self.taken).unwrap_or(usize::MAX)
    }

    /// Whether there is nothing to write, to flush or to tell: then there is no buffer either.
    #[inline]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.buf.capacity() == 0 && !self.stirred
    }

    /// Whether all that was encoded has been handed to the network.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed && self.is_written()
    }

    /// Whether what waits may wait for more: it is short, nobody waits for it, and the transport knows of none of it.
    pub(crate) fn can_wait(&self, most: usize) -> bool {
        let waits = 1..=most;
        waits.contains(&self.len())
            && !self.unflushed
            && self
                .rare
                .as_ref()
                .is_none_or(|rare| rare.segments.len() == 0 && rare.due.is_empty())
    }

    /// Much is about to be encoded.
    #[cold]
    pub(crate) fn make_large(&mut self) {
        if self.buf.capacity() == 0 {
            self.buf = buffers::take_large();
        }
    }

    /// Encodes `message`, and leaves nothing behind when that fails.
    #[inline(always)]
    pub(crate) fn encode<W: Wire>(
        &mut self,
        wire: &mut W,
        message: W::Out,
    ) -> Result<usize, BoxError> {
        if self.buf.capacity() == 0 {
            buffers::lend(&mut self.buf);
        }
        let before = self.buf.len();
        if let Err(error) = wire.encode(message, &mut self.buf) {
            self.buf.truncate(before);
            return Err(error);
        }
        let bytes = self.buf.len() - before;
        if let Err(error) = self.check(wire, bytes) {
            self.buf.truncate(before);
            return Err(error);
        }
        self.complete(bytes);
        Ok(bytes)
    }

    /// Whether the transport can carry a message of so many bytes.
    #[inline(always)]
    fn check<W: Wire>(&self, wire: &W, bytes: usize) -> Result<(), BoxError> {
        if self.framing != Framing::Stream && bytes > wire.max_message() {
            return Err(MessageTooLong::boxed(bytes, wire.max_message()));
        }
        Ok(())
    }

    /// A message of so many bytes is complete.
    #[inline(always)]
    fn complete(&mut self, bytes: usize) {
        self.encoded += bytes as u64;
        if self.framing != Framing::Stream {
            self.complete_unit();
        }
        self.messages += 1;
    }

    #[inline]
    fn complete_unit(&mut self) {
        let rare = self.rare.get_or_insert_with(Rare::boxed);
        rare.units.push_back(self.encoded);
    }

    /// Encodes what was queued, as far as it is not encoded yet, and leaves nothing behind when that fails.
    #[inline(always)]
    pub(crate) fn put<W: Wire>(
        &mut self,
        wire: &mut W,
        payload: Payload<W::Out>,
    ) -> Result<usize, BoxError> {
        let bytes = match payload {
            Payload::Message(message) => return self.encode(wire, message),
            Payload::Shared(shared) => {
                let Some(id) = wire.codec_id() else {
                    return self.encode(wire, shared.message());
                };
                let bytes = shared.encoded(id, |message| encode_apart(wire, message))?;
                self.check(wire, bytes.len())?;
                self.append([bytes])
            }
            Payload::Raw(bytes) => {
                wire.takes_raw()?;
                self.check(wire, bytes.len())?;
                self.append([bytes])
            }
            Payload::RawVectored(pieces) => {
                wire.takes_raw()?;
                self.check(wire, pieces.iter().map(Bytes::len).sum())?;
                self.append(pieces)
            }
            // nothing goes out, and who waits for that learns it when what is before has left
            _ => return Ok(0),
        };
        self.complete(bytes);
        Ok(bytes)
    }

    /// Adds bytes as they are: large pieces by reference, small ones as copies. Where nothing else waits a piece need not
    /// be large, for a buffer would be taken for it alone.
    fn append(&mut self, pieces: impl IntoIterator<Item = Bytes>) -> usize {
        let mut bytes = 0;
        let mut references = 0;
        self.stirred = true;
        for piece in pieces {
            bytes += piece.len();
            // a message that is to be one unit is written in one call, which takes so many slices
            let referable = self.framing == Framing::Stream || references < segments::IN_A_UNIT;
            if piece.len() >= LEAST_ALONE && self.len() == 0 && bytes == piece.len() {
                references += 1;
                self.rare.get_or_insert_with(Rare::boxed).front = piece;
            } else if referable && piece.len() >= segments::LEAST {
                references += 1;
                let rare = self.rare.get_or_insert_with(Rare::boxed);
                rare.segments.push(self.buf.len(), piece);
            } else if !piece.is_empty() {
                if self.buf.capacity() == 0 {
                    buffers::lend(&mut self.buf);
                }
                self.buf.extend_from_slice(&piece);
            }
        }
        bytes
    }

    /// The message encoded last took so many bytes; `ticket` is told when they have left.
    pub(crate) fn attend(&mut self, ticket: Ticket, bytes: usize) {
        self.stirred = true;
        self.rare
            .get_or_insert_with(Rare::boxed)
            .due
            .push_back(Due {
                end: self.encoded,
                bytes,
                ticket,
            });
    }

    /// Keeps the ticket of whoever waits for the end of our direction.
    #[cold]
    pub(crate) fn keep_end(&mut self, ticket: Ticket) {
        self.rare.get_or_insert_with(Rare::boxed).end = Some(ticket);
    }

    /// Our direction has ended: the ticket of whoever waits for that.
    #[cold]
    pub(crate) fn take_end(&mut self) -> Option<Ticket> {
        self.rare.as_mut()?.end.take()
    }

    /// The transport has something to flush that was not written here.
    pub(crate) const fn poke(&mut self) {
        self.unflushed = true;
        self.stirred = true;
    }

    /// Forgets what is encoded, for a transport that sends nothing more; whoever waits for its outcome learns that.
    #[cold]
    pub(crate) fn give_up<W: Wire>(&mut self, wire: &mut W, error: &SharedError) {
        if let Some(rare) = &mut self.rare {
            while let Some(due) = rare.due.pop_front() {
                wire.driver().cannot_send(&due.ticket, Arc::clone(error));
            }
            rare.units.clear();
            rare.front = Bytes::new();
            rare.segments = Segments::default();
        }
        if self.len() > 0 {
            wire.driver().unsent(0, self.encoded - self.taken);
        }
        self.buf.clear();
        self.taken = self.encoded;
        self.push_len = 0;
        self.unflushed = false;
    }

    /// Drops what an encoder that panicked may have left of a message.
    pub(crate) fn repair(&mut self) {
        let referred = |rare: &Rare| rare.segments.len() + rare.front.len();
        let referred = self.rare.as_deref().map_or(0, referred);
        self.buf.truncate(self.len() - referred);
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
        // every other turn has nothing to write
        if self.is_at_rest() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush_all(wire, cx, clock, timer)
    }

    #[inline(always)]
    fn poll_flush_all<W: Wire>(
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
                timer.stalled(moved > 0, wire.written(), clock);
                if let Some(rare) = &self.rare
                    && !rare.due.is_empty()
                {
                    rare.report_begun(self.taken, wire);
                }
            }
            Poll::Ready(_) => timer.flowed(),
        }
        polled
    }

    #[inline(always)]
    fn poll_write<W: Wire>(&mut self, wire: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // nothing newer follows a send that waits until that is flushed
            let is_written = self.is_written();
            if (self.unflushed && is_written) || self.is_due() {
                if self.unflushed {
                    ready!(wire.poll_flush(cx))?;
                    self.unflushed = false;
                }
                self.report(wire);
            }
            if is_written {
                if self.buf.capacity() > 0 {
                    buffers::take_back(&mut self.buf);
                }
                self.stirred = false;
                self.push_len = 0;
                return Poll::Ready(Ok(()));
            }
            let unit = match self.units().and_then(|units| units.front()) {
                Some(end) => usize::try_from(end - self.taken).unwrap_or(usize::MAX),
                None => self.len(),
            };
            let taken = ready!(self.send(wire, cx, unit))?;
            let unit = self.rare.as_mut().and_then(|rare| rare.units.pop_front());
            if unit.is_none() && taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken);
            self.unflushed = true;
        }
    }

    /// Gives the transport the next `limit` bytes, as far as it takes them.
    #[inline]
    fn send<W: Wire>(
        &self,
        wire: &mut W,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        match &self.rare {
            Some(rare) if self.len() != self.buf.len() => {
                if self.len() == rare.front.len() {
                    wire.poll_send(cx, &[IoSlice::new(&rare.front[..limit])])
                } else {
                    rare.send_gathered(&self.buf, wire, cx, limit)
                }
            }
            _ => wire.poll_send(cx, &[IoSlice::new(&self.buf[..limit])]),
        }
    }

    /// The transport has taken so many bytes.
    #[inline]
    fn advance(&mut self, taken: usize) {
        let all_buffered = self.len() == self.buf.len();
        let of_buf = match &mut self.rare {
            Some(rare) if !all_buffered => rare.advance(taken),
            _ => taken,
        };
        self.taken += taken as u64;
        if of_buf == self.buf.len() {
            self.buf.clear(); // unlike an advance, this leaves the whole block to be used again
        } else {
            self.buf.advance(of_buf);
        }
    }

    /// Whether the transport took all that was encoded.
    #[inline]
    fn is_written(&self) -> bool {
        self.encoded == self.taken && self.units().is_none_or(VecDeque::is_empty)
    }

    #[inline]
    fn units(&self) -> Option<&VecDeque<u64>> {
        self.rare.as_ref().map(|rare| &rare.units)
    }

    #[inline]
    fn is_due(&self) -> bool {
        let rare = self.rare.as_ref();
        rare.is_some_and(|rare| rare.is_due(self.taken))
    }

    /// Tells the outcome of what is flushed now.
    #[inline]
    fn report<W: Wire>(&mut self, wire: &mut W) {
        if let Some(rare) = &mut self.rare {
            while rare.is_due(self.taken)
                && let Some(due) = rare.due.pop_front()
            {
                wire.driver().complete(&due.ticket, due.bytes);
            }
        }
    }
}

/// Returns the low half of a position, which is enough to compare positions that are close.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the high half is left out")]
const fn low(position: u64) -> u32 {
    position as u32
}

impl Rare {
    // apart, because a message that has no need of it pays for the code of it otherwise
    #[cold]
    #[inline(never)]
    fn boxed() -> Box<Self> {
        Box::default()
    }

    /// Forgets the runs of pushes that the transport has taken, and returns the length of the
    /// others in bytes.
    #[cold]
    fn earlier_pushes(&mut self, taken: u64) -> u64 {
        while let Some((start, end)) = self.push_runs.front_mut() {
            if taken <= *start {
                break;
            }
            let gone = taken.min(*end) - *start;
            *start += gone;
            self.push_bytes -= gone;
            if *start < *end {
                break;
            }
            self.push_runs.pop_front();
        }
        self.push_bytes
    }

    /// Whether the transport, which has `taken` so much, took the message of the next send that waits. A message of no
    /// bytes ends where the one before it does, so that units are looked at too.
    #[inline]
    fn is_due(&self, taken: u64) -> bool {
        self.due.front().is_some_and(|due| {
            due.end <= taken && self.units.front().is_none_or(|end| *end > due.end)
        })
    }

    /// Tells the outbox which of the sends that wait has begun to leave: who gives up wants to know.
    #[cold]
    fn report_begun<W: Wire>(&self, taken: u64, wire: &mut W) {
        let begun = |due: &&Due| due.end - (due.bytes as u64) < taken;
        let begun = self.due.iter().take_while(begun);
        if let Some(due) = begun.filter(|due| due.ticket.is_awaited()).last() {
            wire.driver().begun(&due.ticket);
        }
    }

    /// Gives the transport the next `limit` bytes in slices. Apart, because they lie on the stack.
    #[cold]
    fn send_gathered<W: Wire>(
        &self,
        buf: &[u8],
        wire: &mut W,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); segments::SLICES];
        let gathered = self.segments.gather(&self.front, buf, limit, &mut slices);
        wire.poll_send(cx, gathered)
    }

    /// Lets go of so many bytes as were `taken`, and says how many of them were the buffer's.
    fn advance(&mut self, taken: usize) -> usize {
        if taken < self.front.len() {
            self.front.advance(taken);
            return 0;
        }
        let left = taken - std::mem::take(&mut self.front).len();
        if self.segments.len() == 0 {
            left
        } else {
            self.segments.advance(left)
        }
    }
}

/// Encodes a message for many sessions, in a block of its own.
fn encode_apart<W: Wire>(wire: &mut W, message: W::Out) -> Result<Bytes, BoxError> {
    let mut buf = buffers::take();
    let encoded = wire.encode(message, &mut buf);
    let bytes = encoded.map(|()| Bytes::copy_from_slice(&buf));
    buffers::give(buf);
    bytes
}
