//! Encodes messages into the write buffer, writes it and completes sends.

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
    sync::Lazy,
};
use tower::BoxError;

use super::segments::{MAX_SEGMENTS_PER_MESSAGE, MAX_SLICES, MIN_SEGMENT, Segments};
use crate::{
    buffer_pool,
    session::{
        error::MessageTooLong,
        framed_transport::FramedTransport,
        schedule::{Clock, Timer},
    },
    transport::{Framing, Transport},
};

/// Marks the end of a unit that the transport has [prepared](Transport::prepare). No session
/// encodes 2^63 bytes.
const PREPARED: u64 = 1 << 63;

/// Minimum size of a payload that is written by reference when nothing else waits, in bytes.
const MIN_FRONT: usize = 512;

#[derive(Debug)]
pub(crate) struct Writer {
    /// Encoded bytes that the transport has not taken, except for those by reference.
    buf: BytesMut,
    /// Number of bytes that were encoded in total.
    pub(super) encoded: u64,
    /// Number of encoded bytes that the transport has taken.
    pub(super) taken: u64,
    /// Number of encoded messages that the driver has not counted yet.
    messages: u32,
    /// Bytes were written since the last complete flush.
    unflushed: bool,
    /// `true` if there may be more than `buf` to write or flush, or sends to complete.
    dirty: bool,
    framing: Framing,
    /// Size of the largest message that was [noted](Self::note_size): the exponent of the power of
    /// two that it does not exceed.
    largest: u8,
    /// The latest run of pushed messages: its end, by `encoded`, and its length in bytes.
    pub(super) push_end: u32,
    pub(super) push_len: u32,
    pub(super) pending: Lazy<PendingWrites>,
}

/// State of sends that are awaited, of payloads by reference and of message transports. A
/// session over a stream that only replies does not need it.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    /// Payload by reference before the bytes of the buffer. It was added when nothing else waited.
    front: Bytes,
    /// Payloads by reference between the bytes of the buffer.
    segments: Segments,
    /// On a message transport: ends of the messages that wait, by `encoded`. [`PREPARED`] is added
    /// for a message that waits in `prepared` as well.
    units: VecDeque<u64>,
    /// Messages that the transport has prepared, in the order of their units.
    prepared: VecDeque<Bytes>,
    /// Sends that complete at the first flush after their last byte.
    completions: VecDeque<PendingCompletion>,
    /// Ticket of the task that awaits the end of our direction, behind all sends.
    finish: Option<Ticket>,
    /// Runs of pushed messages that still wait, before the latest run. Each has its beginning and
    /// its end, by `encoded`.
    pub(super) push_runs: VecDeque<(u64, u64)>,
    /// Total length of `push_runs`, in bytes.
    pub(super) push_bytes: u64,
}

#[derive(Debug)]
struct PendingCompletion {
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
            dirty: false,
            framing,
            largest: 0,
            push_end: 0,
            push_len: 0,
            pending: Lazy::new(),
        }
    }

    /// Returns the size of the largest [noted](Self::note_size) message, in bytes. It is rounded up
    /// to a power of two.
    pub(crate) const fn largest(&self) -> usize {
        1 << self.largest
    }

    /// Records the size of a message for the reply limit. Pushes must be recorded. Replies must be
    /// recorded while the peer does not take all that waits.
    #[inline]
    pub(crate) fn note_size(&mut self, bytes: usize) {
        let bits = usize::BITS - bytes.saturating_sub(1).leading_zeros();
        // `bits` is at most 64. No message can have 2^63 bytes.
        self.largest = self.largest.max(bits.min(usize::BITS - 1) as u8);
    }

    /// Returns how many bytes were encoded in all.
    pub(crate) const fn encoded(&self) -> u64 {
        self.encoded
    }

    /// Returns how many encoded bytes wait for the transport.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.encoded - self.taken).unwrap_or(usize::MAX)
    }

    /// Returns `true` if there is nothing to write, to flush or to complete. An idle writer holds
    /// no buffer.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.buf.capacity() == 0 && !self.dirty
    }

    /// Returns `true` if all encoded bytes were flushed.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed && self.is_written()
    }

    /// Returns `true` if the waiting bytes may be delayed: they are at most `max`, no task awaits
    /// them, and the transport has taken none.
    pub(crate) fn can_delay(&self, max: usize) -> bool {
        (1..=max).contains(&self.len())
            && !self.unflushed
            && self
                .pending
                .get()
                .is_none_or(|pending| pending.segments.len() == 0 && pending.completions.is_empty())
    }

    /// Takes a large buffer, if there is no buffer yet.
    #[cold]
    pub(crate) fn make_large(&mut self) {
        if self.buf.capacity() == 0 {
            self.buf = buffer_pool::take_large();
        }
    }

    /// Encodes `message` and returns its size in bytes. A message that fails leaves no bytes.
    // (design.md: Why are large payloads copied when they are encoded?)
    #[inline(always)]
    pub(crate) fn encode<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        message: W::Out,
    ) -> Result<usize, BoxError> {
        if self.buf.capacity() == 0 {
            buffer_pool::take_into(&mut self.buf);
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

    /// Returns an error if a message of `bytes` bytes exceeds the transport's maximum.
    #[inline(always)]
    fn check<W: FramedTransport>(&self, wire: &W, bytes: usize) -> Result<(), BoxError> {
        if self.framing != Framing::Stream && bytes > wire.transport().max_message() {
            return Err(MessageTooLong::boxed(bytes, wire.transport().max_message()));
        }
        Ok(())
    }

    /// Counts a complete message of `bytes` bytes.
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
        self.pending.get_or_default().units.push_back(self.encoded);
    }

    /// Writes the payload of a send. Encodes it if it is not yet encoded. Returns its size in
    /// bytes. A payload that fails leaves no bytes.
    #[inline(always)]
    pub(crate) fn encode_payload<W: FramedTransport>(
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
                let bytes = shared.encoded(id, |message| encode_separately(wire, message))?;
                self.check(wire, bytes.len())?;
                // One session of the group compresses. The others send its result.
                if let Some(form) = wire.transport().shared_form()
                    && !bytes.is_empty()
                {
                    let prepare = || wire.transport_mut().prepare(&bytes);
                    let prepared = shared.prepared(id, form, prepare);
                    return Ok(self.append_prepared(bytes, prepared));
                }
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
            // A flush has no bytes. It completes when all bytes before it are flushed.
            _ => return Ok(0),
        };
        self.complete(bytes);
        Ok(bytes)
    }

    /// Appends a message that the transport has prepared. The encoded bytes wait as well because
    /// statistics and limits count them.
    #[cold]
    fn append_prepared(&mut self, bytes: Bytes, prepared: Bytes) -> usize {
        let bytes = self.append([bytes]);
        self.complete(bytes);
        let pending = self.pending.get_or_default();
        if let Some(end) = pending.units.back_mut() {
            *end |= PREPARED;
            pending.prepared.push_back(prepared);
        }
        bytes
    }

    /// Appends encoded bytes: large pieces by reference and small ones as copies. The first piece
    /// may be smaller if nothing else waits, because it would need a buffer of the pool.
    fn append(&mut self, pieces: impl IntoIterator<Item = Bytes>) -> usize {
        let mut bytes = 0;
        let mut references = 0;
        self.dirty = true;
        for piece in pieces {
            bytes += piece.len();
            // A message transport takes a message in one call with a limited number of slices.
            let referable =
                self.framing == Framing::Stream || references < MAX_SEGMENTS_PER_MESSAGE;
            // (design.md: Why is a small broadcast written by reference when it is alone?)
            if piece.len() >= MIN_FRONT && self.len() == 0 && bytes == piece.len() {
                references += 1;
                self.pending.get_or_default().front = piece;
            } else if referable && piece.len() >= MIN_SEGMENT {
                references += 1;
                let pending = self.pending.get_or_default();
                pending.segments.push(self.buf.len(), piece);
            } else if !piece.is_empty() {
                if self.buf.capacity() == 0 {
                    buffer_pool::take_into(&mut self.buf);
                }
                self.buf.extend_from_slice(&piece);
            }
        }
        bytes
    }

    /// Registers `ticket`, which completes once the last message of `bytes` bytes is flushed.
    pub(crate) fn add_completion(&mut self, ticket: Ticket, bytes: usize) {
        self.dirty = true;
        self.pending
            .get_or_default()
            .completions
            .push_back(PendingCompletion {
                end: self.encoded,
                bytes,
                ticket,
            });
    }

    /// Registers the ticket of the task that awaits the end of our direction.
    #[cold]
    pub(crate) fn set_finish_ticket(&mut self, ticket: Ticket) {
        self.pending.get_or_default().finish = Some(ticket);
    }

    /// Takes the ticket of the task that awaits the end of our direction.
    #[cold]
    pub(crate) fn take_finish_ticket(&mut self) -> Option<Ticket> {
        self.pending.get_mut()?.finish.take()
    }

    /// Requests a flush, because the transport may have output that was not written here.
    pub(crate) const fn mark_dirty(&mut self) {
        self.unflushed = true;
        self.dirty = true;
    }

    /// Discards all encoded bytes, because the transport sends nothing more. Sends that wait fail
    /// with `error`.
    #[cold]
    pub(crate) fn discard_unsent<W: FramedTransport>(&mut self, wire: &mut W, error: &SharedError) {
        if let Some(pending) = self.pending.get_mut() {
            while let Some(completion) = pending.completions.pop_front() {
                let driver = wire.driver();
                driver.fail_io(&completion.ticket, Arc::clone(error));
            }
            pending.units.clear();
            pending.prepared.clear();
            pending.front = Bytes::new();
            pending.segments = Segments::default();
        }
        if self.len() > 0 {
            wire.driver().record_unsent(0, self.encoded - self.taken);
        }
        self.buf.clear();
        self.taken = self.encoded;
        self.push_len = 0;
        self.unflushed = false;
    }

    /// Removes the bytes that an encoder may have written before it panicked.
    pub(crate) fn truncate_incomplete(&mut self) {
        let referred = |pending: &PendingWrites| pending.segments.len() + pending.front.len();
        let referred = self.pending.get().map_or(0, referred);
        self.buf.truncate(self.len() - referred);
    }

    /// Writes and flushes all encoded bytes. Records in `timer` whether the transport stalls.
    #[inline]
    pub(crate) fn poll_flush<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
        clock: &mut Clock,
        timer: &mut Timer,
    ) -> Poll<io::Result<()>> {
        // A poll that only reads has nothing to write.
        if self.is_idle() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush_all(wire, cx, clock, timer)
    }

    #[inline(always)]
    fn poll_flush_all<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
        clock: &mut Clock,
        timer: &mut Timer,
    ) -> Poll<io::Result<()>> {
        if self.messages > 0 {
            let messages = std::mem::take(&mut self.messages);
            wire.driver().record_messages_out(messages.into());
        }
        let before = self.taken;
        let polled = self.poll_write(wire, cx);
        let moved = self.taken - before;
        if moved > 0 {
            let driver = wire.driver();
            driver.record_sent(moved, clock.timestamp(driver));
        }
        match polled {
            Poll::Pending => {
                timer.record_stalled(moved > 0, wire.transport().bytes_flushed(), clock);
                if let Some(pending) = self.pending.get()
                    && !pending.completions.is_empty()
                {
                    pending.report_begun(self.taken, wire);
                }
            }
            Poll::Ready(_) => timer.record_flushed(),
        }
        polled
    }

    #[inline(always)]
    fn poll_write<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // An awaited send must be flushed before newer bytes are written, so that it completes
            // independently (design.md: Why does `send` wait for the flush?).
            let is_written = self.is_written();
            if (self.unflushed && is_written) || self.is_send_written() {
                if self.unflushed {
                    ready!(wire.transport_mut().poll_flush(cx))?;
                    self.unflushed = false;
                }
                self.complete_sends(wire);
            }
            if is_written {
                if self.buf.capacity() > 0 {
                    buffer_pool::put_back(&mut self.buf);
                }
                self.dirty = false;
                self.push_len = 0;
                return Poll::Ready(Ok(()));
            }
            let unit = match self.units().and_then(|units| units.front()) {
                Some(end) => usize::try_from(end - self.taken).unwrap_or(usize::MAX),
                None => self.len(),
            };
            let taken = ready!(self.send(wire, cx, unit))?;
            let unit = self
                .pending
                .get_mut()
                .and_then(|pending| pending.units.pop_front());
            if unit.is_none() && taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken);
            self.unflushed = true;
        }
    }

    /// Gives the transport the next `limit` bytes. Returns how many it has taken. If the limit
    /// exceeds the bytes that wait, it contains the mark [`PREPARED`].
    #[inline]
    fn send<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let bytes = match self.pending.get() {
            Some(pending) if self.len() != self.buf.len() => {
                if self.len() == pending.front.len() {
                    pending.front.get(..limit)
                } else if limit <= self.len() {
                    return pending.send_gathered(&self.buf, wire, cx, limit);
                } else {
                    None
                }
            }
            _ => self.buf.get(..limit),
        };
        match bytes {
            Some(bytes) => wire.transport_mut().poll_send(cx, &[IoSlice::new(bytes)]),
            None => self.send_prepared(wire, cx),
        }
    }

    /// Gives the transport the next unit, which it has prepared.
    #[cold]
    fn send_prepared<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Self {
            buf,
            taken,
            pending,
            ..
        } = self;
        let Some(pending) = pending.get_mut() else {
            unreachable!("a unit waits");
        };
        let end = pending.units.front().map_or(*taken, |end| end & !PREPARED);
        let limit = usize::try_from(end - *taken).unwrap_or(usize::MAX);
        let prepared = pending.prepared.front().cloned().unwrap_or_default();
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let gathered = pending
            .segments
            .gather(&pending.front, buf, limit, &mut slices);
        let transport = wire.transport_mut();
        let sent = ready!(transport.poll_send_prepared(cx, gathered, &prepared))?;
        pending.prepared.pop_front();
        Poll::Ready(Ok(sent))
    }

    /// Removes `taken` bytes, which the transport has taken.
    #[inline]
    fn advance(&mut self, taken: usize) {
        let all_buffered = self.len() == self.buf.len();
        let of_buf = match self.pending.get_mut() {
            Some(pending) if !all_buffered => pending.advance(taken),
            _ => taken,
        };
        self.taken += taken as u64;
        if of_buf == self.buf.len() {
            self.buf.clear(); // unlike `advance`, this makes the whole block available again
        } else {
            self.buf.advance(of_buf);
        }
    }

    /// Returns `true` if the transport has taken all encoded bytes.
    #[inline]
    fn is_written(&self) -> bool {
        self.encoded == self.taken && self.units().is_none_or(VecDeque::is_empty)
    }

    #[inline]
    fn units(&self) -> Option<&VecDeque<u64>> {
        self.pending.get().map(|pending| &pending.units)
    }

    #[inline]
    fn is_send_written(&self) -> bool {
        let pending = self.pending.get();
        pending.is_some_and(|pending| pending.is_send_written(self.taken))
    }

    /// Completes the sends whose bytes are flushed.
    #[inline]
    fn complete_sends<W: FramedTransport>(&mut self, wire: &mut W) {
        if let Some(pending) = self.pending.get_mut() {
            while pending.is_send_written(self.taken)
                && let Some(completion) = pending.completions.pop_front()
            {
                wire.driver().complete(&completion.ticket, completion.bytes);
            }
        }
    }
}

impl PendingWrites {
    /// Returns `true` if the transport has taken the message of the next awaited send. It has taken
    /// `taken` bytes in total. An empty message ends where the one before it ends, so the units are
    /// checked as well.
    #[inline]
    fn is_send_written(&self, taken: u64) -> bool {
        self.completions.front().is_some_and(|next| {
            next.end <= taken && self.units.front().is_none_or(|end| *end > next.end)
        })
    }

    /// Reports the last awaited send that was written in part. A sender that gives up must know
    /// this.
    #[cold]
    fn report_begun<W: FramedTransport>(&self, taken: u64, wire: &mut W) {
        let begun = |next: &&PendingCompletion| next.end - (next.bytes as u64) < taken;
        let begun = self.completions.iter().take_while(begun);
        if let Some(last) = begun.filter(|next| next.ticket.is_awaited()).last() {
            wire.driver().record_begun(&last.ticket);
        }
    }

    /// Gives the transport the next `limit` bytes in slices. A separate function, because the
    /// slices are on the stack.
    #[cold]
    fn send_gathered<W: FramedTransport>(
        &self,
        buf: &[u8],
        wire: &mut W,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let gathered = self.segments.gather(&self.front, buf, limit, &mut slices);
        wire.transport_mut().poll_send(cx, gathered)
    }

    /// Removes `taken` bytes. Returns how many were in the buffer.
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

/// Encodes a message that many sessions share into a separate block.
fn encode_separately<W: FramedTransport>(wire: &mut W, message: W::Out) -> Result<Bytes, BoxError> {
    let mut buf = buffer_pool::take();
    let encoded = wire.encode(message, &mut buf);
    let bytes = encoded.map(|()| Bytes::copy_from_slice(&buf));
    buffer_pool::put(buf);
    bytes
}
