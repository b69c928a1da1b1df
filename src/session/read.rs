//! The reading half of a session: from the transport to decoded messages.

mod units;

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tower::BoxError;

use super::{
    buffers::{self, BUFFER, LARGE},
    bulk::Bulk,
    undecodable::FrameTooLong,
    wire::Wire,
};
use crate::transport::{Framing, Received};

/// A read asks for no less than this, as far as the bound allows.
const LEAST_READ: usize = 4 * 1024;

#[derive(Debug)]
pub(crate) struct Reader {
    buf: BytesMut,
    /// How many undecoded bytes may lie in the buffer now.
    limit: usize,
    /// There may be a message in the buffer.
    decodable: bool,
    /// It was read ahead as far as the bound allows: no more until half of that is decoded, or each message that is would
    /// cost a read, and room for it a move of all that waits.
    full: bool,
    raised: Raised,
    end: InputEnd,
    framing: Framing,
    bulk: Bulk,
    /// The buffer was a large one when it was taken.
    holds_large: bool,
    /// The last read took all that had arrived, and the transport wakes us when there is more.
    emptied: bool,
    /// Made when it is first needed, and kept from there on.
    rare: Option<Box<Rare>>,
}

/// What a session over a stream has no use for, unless it waits for answers.
#[derive(Debug, Default)]
struct Rare {
    /// Of a message transport: how long each message in the buffer is.
    units: VecDeque<usize>,
    /// What a read of several messages came upon after them.
    after: Option<io::Result<Received>>,
    /// How many bytes the messages took that were decoded ahead of their turn: they count as undecoded.
    ahead: usize,
    /// Bytes that were read and [discarded](Reader::discard).
    discarded: usize,
}

/// End of the peer's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    /// More may be read.
    Open,
    /// The peer has ended its direction, which may complete a message.
    Complete,
    /// Reading has failed: an incomplete message stays incomplete.
    CutOff,
}

/// Whether the limit is raised for the frame at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    No,
    /// The buffer had the room already, whether or not the codec has reserved it.
    Unseen,
    /// The codec has reserved it, which it may once.
    Reserved,
}

impl Rare {
    #[cold]
    #[inline(never)]
    fn boxed() -> Box<Self> {
        Box::default()
    }
}

/// What [`Reader::decode`] found.
#[derive(Debug)]
pub(crate) enum Decoded<In> {
    Message(In),
    /// A message of a message transport could not be decoded. It is out of the way.
    Bad(BoxError),
    /// Nothing more until more arrives.
    Nothing,
    /// Nothing more for ever.
    End,
}

/// Result of [`Reader::discard`].
#[derive(Debug)]
pub(crate) enum Discarded {
    /// Bytes were read.
    Bytes(usize),
    /// The peer has ended its direction.
    End,
    /// There is nothing to read: the peer had ended its direction before, or reading failed.
    Nothing,
}

impl Reader {
    pub(crate) fn new(framing: Framing, max_frame: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            limit: max_frame,
            decodable: false,
            full: false,
            raised: Raised::No,
            end: InputEnd::Open,
            framing,
            bulk: Bulk::default(),
            holds_large: false,
            emptied: false,
            rare: None,
        }
    }

    /// The next message of those that have arrived.
    ///
    /// # Errors
    ///
    /// The codec's on a stream, or [`FrameTooLong`]; the session cannot go on.
    // always: as a call of its own it would hand each message over through memory, twice
    #[inline(always)]
    pub(crate) fn decode<W: Wire>(&mut self, wire: &mut W) -> Result<Decoded<W::In>, BoxError> {
        if !self.decodable {
            return Ok(if self.has_ended() {
                Decoded::End
            } else {
                Decoded::Nothing
            });
        }
        if self.framing != Framing::Stream {
            return Ok(self.decode_unit(wire));
        }
        let capacity = self.buf.capacity();
        if let Some(message) = wire.decode(&mut self.buf, false)? {
            if self.raised != Raised::No {
                self.limit = wire.max_frame();
                self.raised = Raised::No;
            }
            return Ok(Decoded::Message(message));
        }
        if self.has_ended() {
            return self.decode_end(wire);
        }
        if self.buf.capacity() > self.limit && self.raised != Raised::Reserved {
            self.may_raise_limit(self.buf.capacity() > capacity);
        }
        self.decodable = false;
        if self.buf.len() >= self.bound() {
            return self.ask_for_room(wire);
        }
        Ok(Decoded::Nothing)
    }

    /// Decodes the rest of a stream that has ended. `decode` was called before, because the end may
    /// have been read together with messages. From that call a codec for messages with boundaries,
    /// such as `Text`, knows that there are none. After a reset the rest is not decoded.
    #[cold]
    fn decode_end<W: Wire>(&mut self, wire: &mut W) -> Result<Decoded<W::In>, BoxError> {
        if self.end == InputEnd::Complete {
            if let Some(message) = wire.decode(&mut self.buf, true)? {
                return Ok(Decoded::Message(message));
            }
            self.release();
        }
        self.decodable = false;
        Ok(Decoded::End)
    }

    /// The buffer is larger than the limit. Its codec `has_reserved` room, which one sees by its growth; or did so unseen,
    /// in a buffer that was larger than an ordinary one already. Then it may be filled.
    #[inline(never)]
    fn may_raise_limit(&mut self, has_reserved: bool) {
        if has_reserved || (self.buf.capacity() > BUFFER && self.limit >= BUFFER) {
            self.limit = self.buf.capacity();
            self.raised = if has_reserved {
                Raised::Reserved
            } else {
                Raised::Unseen
            };
        }
    }

    /// The buffer is full and the codec yields nothing. Codecs reserve room for the frame that they know to be at hand;
    /// with no room to spare a reservation shows.
    #[cold]
    fn ask_for_room<W: Wire>(&mut self, wire: &mut W) -> Result<Decoded<W::In>, BoxError> {
        self.move_to(BytesMut::with_capacity(self.buf.len()));
        if let Some(message) = wire.decode(&mut self.buf, false)? {
            self.decodable = true;
            return Ok(Decoded::Message(message));
        }
        if self.raised == Raised::Reserved || self.buf.capacity() == self.buf.len() {
            return Err(Box::new(FrameTooLong {
                limit: self.bound(),
            }));
        }
        self.may_raise_limit(true);
        Ok(Decoded::Nothing)
    }

    /// Ends the input after a read error. Complete messages are still decoded, but an incomplete
    /// one is not completed.
    #[cold]
    pub(crate) const fn cut_off(&mut self) {
        self.end = InputEnd::CutOff;
    }

    /// Forgets what has arrived. Returns how many bytes were not decoded.
    #[cold]
    pub(crate) fn abandon(&mut self) -> usize {
        let bytes = self.buf.len();
        self.forget();
        self.release();
        self.forget_ahead();
        bytes
    }

    /// Returns how many bytes have arrived and are not decoded.
    pub(crate) fn undecoded(&self) -> usize {
        self.buf.len()
    }

    /// Returns `true` if nothing more is read.
    #[inline]
    const fn has_ended(&self) -> bool {
        !matches!(self.end, InputEnd::Open)
    }

    /// Whether there may be a message in what has arrived.
    #[inline]
    pub(crate) const fn is_decodable(&self) -> bool {
        self.decodable
    }

    /// Whether the peer has ended its direction and all before that is decoded.
    #[inline]
    pub(crate) const fn is_finished(&self) -> bool {
        self.has_ended() && !self.decodable
    }

    /// Whether what lies here is the beginning of a frame.
    #[inline]
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.decodable && !self.buf.is_empty()
    }

    /// Whether a read could bring anything: the peer goes on, and there is room for it.
    #[inline]
    pub(crate) fn wants_more(&self) -> bool {
        if self.has_ended() {
            return false;
        }
        match self.framing {
            Framing::Stream => {
                let (waits, bound) = (self.buf.len() + self.ahead(), self.bound());
                waits < bound && !(self.full && self.decodable && waits > bound / 2)
            }
            _ => self.wants_more_messages(),
        }
    }

    /// Decodes a message ahead of its turn, and says how many bytes it took. Beyond the bound on what may wait there is
    /// nothing.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    #[cold]
    pub(crate) fn decode_ahead<W: Wire>(
        &mut self,
        wire: &mut W,
    ) -> Result<(Decoded<W::In>, usize), BoxError> {
        if !self.decodable || self.ahead() >= self.limit {
            return Ok((Decoded::Nothing, 0));
        }
        let before = self.buf.len();
        let decoded = self.decode(wire)?;
        let bytes = before.saturating_sub(self.buf.len());
        // one of no bytes takes memory as well
        let bytes = bytes.max(1);
        if let Decoded::Message(_) = decoded {
            self.rare.get_or_insert_with(Rare::boxed).ahead += bytes;
        }
        Ok((decoded, bytes))
    }

    /// What was decoded ahead is dropped.
    pub(crate) fn forget_ahead(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.ahead = 0;
        }
    }

    /// How many bytes the messages took that were decoded ahead of their turn.
    #[inline]
    fn ahead(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.ahead)
    }

    /// It is the turn of a message that took so many bytes.
    pub(crate) fn caught_up(&mut self, bytes: usize) {
        if let Some(rare) = &mut self.rare {
            rare.ahead -= bytes;
        }
    }

    /// Reads once. Only while [`wants_more`](Self::wants_more).
    #[inline(always)]
    pub(crate) fn poll_read<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        if self.framing == Framing::Messages {
            return self.poll_units(wire, cx);
        }
        let received = ready!(self.poll_recv(wire, cx))?;
        match received {
            Received::Data(bytes) => {
                self.full = false;
                if !self.has_filled(bytes) {
                    self.bulk.fell_short();
                } else if !self.decodable && wire.max_frame() >= BUFFER {
                    self.bulk.filled();
                } else {
                    self.full = self.buf.len() + self.ahead() >= self.bound();
                }
                self.decodable = true;
            }
            Received::Control(_) | Received::Lost(_) => {}
            Received::End => {
                self.end = InputEnd::Complete;
                // of a stream the end may complete a message; of messages it is none, not even an empty one
                self.decodable = self.framing == Framing::Stream;
            }
        }
        Poll::Ready(Ok(received))
    }

    /// Whether a read of so many bytes has brought a buffer's worth, or all that there was room for.
    #[inline]
    fn has_filled(&self, bytes: usize) -> bool {
        let len = self.buf.len();
        len >= BUFFER && (bytes >= BUFFER || len >= self.limit || len == self.buf.capacity())
    }

    #[inline(always)]
    fn poll_recv<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        self.make_room();
        let limit = (self.buf.capacity() - self.buf.len()).min(self.room());
        wire.poll_recv(cx, &mut self.buf, limit)
    }

    /// Whether the last read has found out that nothing more is there: the same turn need not ask again.
    #[inline]
    pub(crate) const fn has_emptied(&self) -> bool {
        self.emptied
    }

    /// Reads once and forgets what was read.
    #[cold]
    pub(crate) fn discard<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Discarded> {
        self.forget();
        self.bulk.end();
        if !self.wants_more() {
            return Poll::Ready(Discarded::Nothing);
        }
        let received = ready!(self.poll_read(wire, cx));
        self.forget();
        Poll::Ready(match received {
            Ok(Received::Data(bytes) | Received::Control(bytes)) => {
                self.rare.get_or_insert_with(Rare::boxed).discarded += bytes;
                Discarded::Bytes(bytes)
            }
            Ok(Received::Lost(_)) => Discarded::Bytes(0),
            Ok(Received::End) => Discarded::End,
            Err(_) => {
                self.cut_off();
                Discarded::Nothing
            }
        })
    }

    /// Returns how many bytes were [discarded](Self::discard).
    pub(crate) fn discarded(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.discarded)
    }

    /// Whether the session is to be given large buffers.
    #[inline]
    pub(crate) const fn is_in_bulk(&self) -> bool {
        self.bulk.is_on()
    }

    /// Something waits, for its handler or for the peer: from here on buffers are ordinary ones. What lies here of a frame
    /// may be as much as those may hold; then the codec is to be asked again, or nobody would ever read on.
    #[cold]
    pub(crate) fn end_bulk(&mut self) {
        self.bulk.end();
        self.decodable |= self.framing == Framing::Stream && self.buf.len() >= self.limit;
    }

    /// How many bytes may lie in the buffer.
    #[inline]
    fn bound(&self) -> usize {
        if self.bulk.is_on() {
            self.bound_in_bulk()
        } else {
            self.limit
        }
    }

    /// More than the limit where they are likely to come, and none of them waits.
    #[cold]
    fn bound_in_bulk(&self) -> usize {
        let waits = self.decodable || self.ahead() > 0;
        if waits || self.raised == Raised::Reserved || self.limit > LARGE {
            self.limit
        } else {
            LARGE
        }
    }

    /// How many bytes may still be read.
    #[inline]
    fn room(&self) -> usize {
        let room = self.bound() - self.buf.len();
        match &self.rare {
            Some(rare) if self.framing == Framing::Stream => room - rare.ahead,
            _ => room,
        }
    }

    fn forget(&mut self) {
        self.buf.clear();
        if let Some(rare) = &mut self.rare {
            rare.units.clear();
        }
        self.decodable = false;
    }

    #[inline]
    fn make_room(&mut self) {
        if self.bulk.is_on() {
            self.make_large();
        }
        if self.buf.capacity() == 0 {
            buffers::lend(&mut self.buf);
        } else if self.buf.capacity() - self.buf.len() < LEAST_READ {
            self.find_room();
        }
    }

    /// The next read is to have a large buffer, unless messages wait, or a frame has made room for itself.
    #[cold]
    fn make_large(&mut self) {
        let least = LARGE - BUFFER;
        if self.decodable
            || self.buf.len() > BUFFER
            || self.buf.capacity() - self.buf.len() >= least
            || self.buf.try_reclaim(least)
        {
            return;
        }
        self.move_to(buffers::take_large());
        self.holds_large = true;
    }

    #[cold]
    fn find_room(&mut self) {
        let least = LEAST_READ.min(self.room());
        if self.buf.capacity() - self.buf.len() >= least || self.buf.try_reclaim(least) {
            return;
        }
        let roomy = if self.buf.len() + least <= BUFFER {
            buffers::take()
        } else {
            BytesMut::with_capacity((self.buf.len() * 2).min(self.bound()))
        };
        self.move_to(roomy);
    }

    /// Takes `other` instead of the buffer at hand, with what is in that.
    fn move_to(&mut self, mut other: BytesMut) {
        other.extend_from_slice(&self.buf);
        self.release();
        self.buf = other;
    }

    /// Before a wait: an idle session holds no buffer, and one that waits for the rest of a small frame a small one.
    #[inline]
    pub(crate) fn rest(&mut self) {
        if self.buf.is_empty() {
            if self.buf.capacity() > 0 {
                self.release();
            }
        } else if self.buf.len() <= LEAST_READ && self.buf.capacity() > 2 * LEAST_READ {
            self.move_to(BytesMut::with_capacity(self.buf.len()));
        } else if self.holds_large && self.buf.len() <= BUFFER / 2 {
            self.move_to(buffers::take());
        }
    }

    /// Gives the buffer back with whatever is in it.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.holds_large {
            self.holds_large = false;
            buffers::take_back_large(&mut self.buf);
        } else {
            buffers::take_back(&mut self.buf);
        }
    }
}
