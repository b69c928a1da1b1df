//! Reads into the session's buffer and decodes messages from it.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::sync::Lazy;
use tower::BoxError;

use super::read_ahead::ReadAhead;
use crate::{
    buffer_pool::{self, BUFFER, LARGE},
    session::{error::FrameTooLong, framed_transport::FramedTransport, schedule::BufferSizing},
    transport::{Framing, Received, Transport},
};

/// Minimum spare room of a read, in bytes. The bound may allow less.
const MIN_READ: usize = 4 * 1024;

#[derive(Debug)]
pub(crate) struct Reader<In> {
    pub(super) buf: BytesMut,
    /// Maximum undecoded bytes in the buffer. Follows the codec (design.md: Why is the bound on
    /// undecoded bytes not the maximum frame length?).
    pub(super) limit: usize,
    /// The buffer may contain a message.
    pub(super) decodable: bool,
    /// The read-ahead limit was reached. Reading resumes once half of it is decoded; resuming
    /// earlier would cost a read and a memmove per message.
    full: bool,
    raised: RaisedLimit,
    pub(super) end: InputEnd,
    pub(super) framing: Framing,
    sizing: BufferSizing,
    /// The buffer was a large one when it was taken from the pool.
    holds_large: bool,
    /// The last read took all that had arrived, and the transport has registered the waker.
    pub(super) is_exhausted: bool,
    pub(super) ahead: ReadAhead<In>,
    pub(super) ext: Lazy<ReaderExt>,
}

/// State of message transports and of closing sessions.
#[derive(Debug, Default)]
pub(super) struct ReaderExt {
    /// On a message transport: the length of each message in the buffer.
    pub(super) lengths: VecDeque<usize>,
    /// End or error behind the messages that the last read took.
    pub(super) after: Option<io::Result<Received>>,
    /// Number of bytes that were read and [discarded](Reader::discard).
    discarded: usize,
}

/// End of the peer's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// More may be read.
    Open,
    /// The peer has ended its direction, which may complete a message.
    Complete,
    /// Reading has failed: an incomplete message stays incomplete.
    CutOff,
    /// The input is invalid: an incomplete message stays incomplete, and the rest is discarded.
    Invalid,
}

/// State of the limit for the current frame.
// One byte: with another field for the changed maximum, the reader would need eight bytes
// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RaisedLimit {
    No,
    /// Raised to the buffer's capacity, because the codec may have reserved room that the buffer
    /// had already.
    Assumed,
    /// As [`Assumed`](Self::Assumed), or not raised. The maximum frame was changed, which takes
    /// effect after the frame.
    Changed,
    /// The codec has reserved room. It may do so once per frame.
    Reserved,
    /// Both.
    ReservedAndChanged,
}

impl RaisedLimit {
    /// Returns `true` if the codec has reserved room.
    const fn is_reserved(self) -> bool {
        matches!(self, Self::Reserved | Self::ReservedAndChanged)
    }

    /// Returns `true` if the maximum frame was changed.
    const fn is_changed(self) -> bool {
        matches!(self, Self::Changed | Self::ReservedAndChanged)
    }

    const fn new(is_reserved: bool, is_changed: bool) -> Self {
        match (is_reserved, is_changed) {
            (false, false) => Self::Assumed,
            (false, true) => Self::Changed,
            (true, false) => Self::Reserved,
            (true, true) => Self::ReservedAndChanged,
        }
    }
}

/// Result of [`Reader::next`].
#[derive(Debug)]
pub(crate) enum Decoded<In> {
    Message(In),
    /// A message of a message transport could not be decoded, and was removed.
    Bad(BoxError),
    /// There is no complete message.
    Nothing,
    /// There is no message, and none will arrive.
    End,
}

/// Result of [`Reader::discard`].
#[derive(Debug)]
pub(crate) enum Discarded {
    /// Input was read.
    Input,
    /// The peer has ended its direction.
    End,
    /// There is nothing to read: the peer had ended its direction before, or reading failed.
    Nothing,
}

impl<In> Reader<In> {
    pub(crate) fn new(framing: Framing, max_frame: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            limit: max_frame,
            decodable: false,
            full: false,
            raised: RaisedLimit::No,
            end: InputEnd::Open,
            framing,
            sizing: BufferSizing::default(),
            holds_large: false,
            is_exhausted: false,
            ahead: ReadAhead::new(),
            ext: Lazy::new(),
        }
    }

    /// Returns the next message that has arrived. Messages that were decoded ahead come first.
    /// Counts the others in `decoded`.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    #[inline(always)]
    pub(crate) fn next<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
        decoded: &mut u32,
    ) -> Result<Decoded<In>, BoxError> {
        if !self.ahead.is_empty()
            && let Some(message) = self.ahead.pop_front()
        {
            return Ok(Decoded::Message(message));
        }
        match self.decode(wire) {
            Ok(Decoded::Message(message)) => {
                *decoded += 1;
                Ok(Decoded::Message(message))
            }
            other => other,
        }
    }

    /// Puts back the message that [`next`](Self::next) returned last.
    #[inline]
    pub(crate) fn put_back(&mut self, message: In) {
        self.ahead.push_front(message);
    }

    /// Decodes a message from the buffer.
    ///
    /// # Errors
    ///
    /// On a stream, returns the codec's error or [`FrameTooLong`]. The session must then close.
    // Must always be inlined: a call would move each message through memory twice.
    #[inline(always)]
    fn decode<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
    ) -> Result<Decoded<In>, BoxError> {
        if !self.decodable {
            return Ok(if self.has_ended() {
                Decoded::End
            } else {
                Decoded::Nothing
            });
        }
        if self.framing != Framing::Stream {
            return Ok(self.decode_message(wire));
        }
        let capacity = self.buf.capacity();
        if let Some(message) = wire.decode(&mut self.buf, false)? {
            if self.raised != RaisedLimit::No {
                if self.raised.is_changed() {
                    wire.apply_max_frame();
                }
                self.limit = wire.max_frame();
                self.raised = RaisedLimit::No;
            }
            return Ok(Decoded::Message(message));
        }
        if self.has_ended() {
            return self.decode_end(wire);
        }
        if self.buf.capacity() > self.limit && !self.raised.is_reserved() {
            self.raise_limit(self.buf.capacity() > capacity);
        }
        self.decodable = false;
        if self.buf.len() >= self.bound() {
            return self.decode_full(wire);
        }
        Ok(Decoded::Nothing)
    }

    /// Applies the maximum frame that was set for the session. A frame of a stream that has begun
    /// keeps the maximum with which it began: the codec may have accepted its length.
    #[cold]
    pub(crate) fn apply_max_frame<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
        has_begun: bool,
    ) {
        if has_begun && self.framing == Framing::Stream {
            self.raised = RaisedLimit::new(self.raised.is_reserved(), true);
            return;
        }
        wire.apply_max_frame();
        if self.raised == RaisedLimit::No {
            self.limit = wire.max_frame();
        }
    }

    /// Decodes the rest of a stream that has ended. `decode` must be called before, because the end
    /// may have been read together with messages. From that call a codec for messages with
    /// boundaries, such as `Text`, knows that there are none (design.md: Why is `decode` called
    /// again when a stream has ended?). After a reset the rest is not decoded.
    #[cold]
    fn decode_end<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
    ) -> Result<Decoded<In>, BoxError> {
        if self.end == InputEnd::Complete {
            if let Some(message) = wire.decode(&mut self.buf, true)? {
                return Ok(Decoded::Message(message));
            }
            self.return_buffer();
        }
        self.decodable = false;
        Ok(Decoded::End)
    }

    /// Raises the limit to the capacity of a buffer that exceeds it if the codec has reserved that
    /// room. `has_reserved` is `true` if the buffer has grown. A buffer that was larger than an
    /// ordinary one may have had the room already. So the codec is assumed to need it.
    #[inline(never)]
    fn raise_limit(&mut self, has_reserved: bool) {
        if has_reserved || (self.buf.capacity() > BUFFER && self.limit >= BUFFER) {
            self.limit = self.buf.capacity();
            self.raised = RaisedLimit::new(has_reserved, self.raised.is_changed());
        }
    }

    /// Decodes again from a full buffer that yielded no message. The buffer is passed without spare
    /// room. A codec that needs room for the current frame must then reserve it, which the reader
    /// can see.
    #[cold]
    fn decode_full<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
    ) -> Result<Decoded<In>, BoxError> {
        self.move_to(BytesMut::with_capacity(self.buf.len()));
        if let Some(message) = wire.decode(&mut self.buf, false)? {
            self.decodable = true;
            return Ok(Decoded::Message(message));
        }
        if self.raised.is_reserved() || self.buf.capacity() == self.buf.len() {
            return Err(Box::new(FrameTooLong {
                limit: self.bound(),
            }));
        }
        self.raise_limit(true);
        Ok(Decoded::Nothing)
    }

    /// Decodes a message and queues it before it can be handled. Breaks with the result where there
    /// is no message, and at the bound on undecoded bytes.
    #[cold]
    pub(crate) fn decode_ahead<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
    ) -> ControlFlow<Result<Decoded<In>, BoxError>> {
        if !self.decodable || self.ahead.bytes() >= self.limit {
            return ControlFlow::Break(Ok(Decoded::Nothing));
        }
        let before = self.buf.len();
        match self.decode(wire) {
            Ok(Decoded::Message(message)) => {
                let bytes = before.saturating_sub(self.buf.len());
                // An empty message takes memory as well.
                self.ahead.push_back(message, bytes.max(1));
                ControlFlow::Continue(())
            }
            other => ControlFlow::Break(other),
        }
    }

    /// Ends the input after a read error. Complete messages are still decoded, but an incomplete
    /// one is not completed.
    #[cold]
    pub(crate) const fn cut_off(&mut self) {
        self.end = InputEnd::CutOff;
    }

    /// Returns the bytes that have arrived and are not decoded, for a transport that takes them.
    #[cold]
    pub(crate) const fn undecoded_mut(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Puts bytes that the codec has kept back to the front of the buffer. They must be decoded by
    /// the codec again, or be handed over to an upgrade.
    #[cold]
    pub(crate) fn put_back_bytes(&mut self, mut kept: BytesMut) {
        if !kept.is_empty() {
            kept.extend_from_slice(&self.buf);
            self.return_buffer();
            self.buf = kept;
        }
    }

    /// Begins with an empty buffer, because the transport was upgraded.
    #[cold]
    pub(crate) fn restart(&mut self, max_frame: usize) {
        self.clear();
        self.return_buffer();
        self.sizing.reset();
        self.limit = max_frame;
        self.raised = RaisedLimit::No;
        self.full = false;
    }

    /// Takes everything that has arrived: the number of undecoded bytes, and the messages that were
    /// decoded ahead.
    #[cold]
    pub(crate) fn abandon(&mut self) -> (usize, ReadAhead<In>) {
        let bytes = self.buf.len();
        if self.end == InputEnd::Invalid {
            // The rest is discarded before the close: unread input would reset the connection.
            self.end = InputEnd::Open;
        }
        self.clear();
        self.return_buffer();
        (bytes, self.ahead.take())
    }

    /// Drops the reader, and the messages that were decoded ahead one at a time.
    pub(crate) fn drop_messages(self) {
        self.ahead.discard();
    }

    /// Returns how many bytes have arrived and are not decoded.
    pub(crate) fn undecoded(&self) -> usize {
        self.buf.len()
    }

    /// Returns the bytes that have arrived and are not decoded.
    #[cold]
    pub(crate) fn undecoded_bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Returns how many messages were decoded ahead and are not handled.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Returns `true` if a message was decoded ahead.
    #[inline]
    pub(crate) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Returns `true` if nothing more is read.
    #[inline]
    pub(crate) const fn has_ended(&self) -> bool {
        !matches!(self.end, InputEnd::Open)
    }

    /// Returns `true` if the buffer may contain a message.
    #[inline]
    pub(crate) const fn is_decodable(&self) -> bool {
        self.decodable
    }

    /// Returns `true` if the input has ended and all messages are decoded.
    #[inline]
    pub(crate) const fn is_decoded(&self) -> bool {
        self.has_ended() && !self.decodable
    }

    /// Returns `true` if the input has ended and all messages were returned by
    /// [`next`](Self::next).
    #[inline]
    pub(crate) fn is_finished(&self) -> bool {
        self.is_decoded() && self.ahead.is_empty()
    }

    /// Returns `true` if the buffer contains the beginning of a frame.
    #[inline]
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.decodable && !self.buf.is_empty()
    }

    /// Returns `true` if a read could return something: the input is open, and there is room.
    #[inline]
    pub(crate) fn wants_more(&self) -> bool {
        if self.has_ended() {
            return false;
        }
        match self.framing {
            Framing::Stream => {
                let (waits, bound) = (self.buf.len() + self.ahead.bytes(), self.bound());
                waits < bound && !(self.full && self.decodable && waits > bound / 2)
            }
            _ => self.wants_more_messages(),
        }
    }

    /// Reads once. The caller must check [`wants_more`](Self::wants_more) first.
    #[inline(always)]
    pub(crate) fn poll_read<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        if self.framing == Framing::Messages {
            return self.poll_messages(wire, cx);
        }
        let received = ready!(self.poll_recv(wire, cx))?;
        match received {
            Received::Data(bytes) => {
                self.full = false;
                if !self.has_filled(bytes) {
                    self.sizing.record_short_read();
                } else if !self.decodable && wire.max_frame() >= BUFFER {
                    self.sizing.record_full_read();
                } else {
                    self.full = self.buf.len() + self.ahead.bytes() >= self.bound();
                }
                self.decodable = true;
            }
            Received::Control(_) | Received::Lost(_) => {}
            Received::End => {
                self.end = InputEnd::Complete;
                // The end of a stream may complete a message.
                self.decodable = self.framing == Framing::Stream;
            }
            Received::Invalid => {
                self.end = InputEnd::Invalid;
                self.decodable = self.framing == Framing::Stream;
            }
        }
        Poll::Ready(Ok(received))
    }

    /// Returns `true` if a read of `bytes` bytes has filled an ordinary buffer, or all the room
    /// that it had.
    #[inline]
    fn has_filled(&self, bytes: usize) -> bool {
        let len = self.buf.len();
        len >= BUFFER && (bytes >= BUFFER || len >= self.limit || len == self.buf.capacity())
    }

    #[inline(always)]
    pub(super) fn poll_recv<W: FramedTransport>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        self.make_room();
        let limit = (self.buf.capacity() - self.buf.len()).min(self.room());
        wire.transport_mut().poll_recv(cx, &mut self.buf, limit)
    }

    /// Returns `true` if the last read found that nothing more has arrived. The same poll need not
    /// read again.
    #[inline]
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Reads once and discards the input.
    #[cold]
    pub(crate) fn discard<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Discarded> {
        self.clear();
        self.sizing.reset();
        if !self.wants_more() {
            return Poll::Ready(Discarded::Nothing);
        }
        let received = ready!(self.poll_read(wire, cx));
        self.clear();
        Poll::Ready(match received {
            Ok(Received::Data(bytes) | Received::Control(bytes)) => {
                self.ext.get_or_default().discarded += bytes;
                Discarded::Input
            }
            Ok(Received::Lost(_)) => Discarded::Input,
            Ok(Received::Invalid) => {
                self.end = InputEnd::Open; // the rest is discarded as it arrives
                Discarded::Input
            }
            Ok(Received::End) => Discarded::End,
            Err(_) => {
                self.cut_off();
                Discarded::Nothing
            }
        })
    }

    /// Returns how many bytes were [discarded](Self::discard).
    pub(crate) fn discarded(&self) -> usize {
        self.ext.get().map_or(0, |ext| ext.discarded)
    }

    /// Returns the adaptive size of the session's buffers.
    #[inline]
    pub(crate) const fn sizing(&self) -> &BufferSizing {
        &self.sizing
    }

    /// Makes the session's buffers ordinary, because something waits for its handler or for the
    /// peer. An incomplete frame may have reached the lower limit. Then the codec must be called
    /// again, or nothing would ever be read.
    #[cold]
    pub(crate) fn reset_sizing(&mut self) {
        self.sizing.reset();
        self.decodable |= self.framing == Framing::Stream && self.buf.len() >= self.limit;
    }

    /// Returns how many undecoded bytes the buffer may hold.
    #[inline]
    fn bound(&self) -> usize {
        if self.sizing.is_large() {
            self.large_bound()
        } else {
            self.limit
        }
    }

    /// Returns the bound while buffers are large. It exceeds the limit only if no message waits.
    #[cold]
    fn large_bound(&self) -> usize {
        let waits = self.decodable || self.ahead.bytes() > 0;
        if waits || self.raised.is_reserved() || self.limit > LARGE {
            self.limit
        } else {
            LARGE
        }
    }

    /// Returns how many bytes may still be read.
    #[inline]
    fn room(&self) -> usize {
        let room = self.bound() - self.buf.len();
        if self.framing == Framing::Stream {
            room - self.ahead.bytes()
        } else {
            room
        }
    }

    fn clear(&mut self) {
        self.buf.clear();
        if let Some(ext) = self.ext.get_mut() {
            ext.lengths.clear();
        }
        self.decodable = false;
    }

    #[inline]
    fn make_room(&mut self) {
        if self.sizing.is_large() {
            self.make_large();
        }
        if self.buf.capacity() == 0 {
            buffer_pool::take_into(&mut self.buf);
        } else if self.buf.capacity() - self.buf.len() < MIN_READ {
            self.find_room();
        }
    }

    /// Takes a large buffer for the next read, unless messages wait or a frame has reserved room.
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
        self.move_to(buffer_pool::take_large());
        self.holds_large = true;
    }

    #[cold]
    fn find_room(&mut self) {
        let least = MIN_READ.min(self.room());
        if self.buf.capacity() - self.buf.len() >= least || self.buf.try_reclaim(least) {
            return;
        }
        let roomy = if self.buf.len() + least <= BUFFER {
            buffer_pool::take()
        } else {
            BytesMut::with_capacity((self.buf.len() * 2).min(self.bound()))
        };
        self.move_to(roomy);
    }

    /// Moves the undecoded bytes to `other` and returns the current buffer to the pool.
    fn move_to(&mut self, mut other: BytesMut) {
        other.extend_from_slice(&self.buf);
        self.return_buffer();
        self.buf = other;
    }

    /// Reduces the buffer before the session waits. An idle session holds none, and the beginning
    /// of a small frame is moved to a small one (design.md: Why do buffers come from a pool?).
    #[inline]
    pub(crate) fn shrink_if_idle(&mut self) {
        if self.buf.is_empty() {
            if self.buf.capacity() > 0 {
                self.return_buffer();
            }
        } else if self.buf.len() <= MIN_READ && self.buf.capacity() > 2 * MIN_READ {
            self.move_to(BytesMut::with_capacity(self.buf.len()));
        } else if self.holds_large && self.buf.len() <= BUFFER / 2 {
            self.move_to(buffer_pool::take());
        }
    }

    /// Returns the buffer to the pool and discards its content.
    #[inline]
    fn return_buffer(&mut self) {
        if self.holds_large {
            self.holds_large = false;
            buffer_pool::put_back_large(&mut self.buf);
        } else {
            buffer_pool::put_back(&mut self.buf);
        }
    }
}
