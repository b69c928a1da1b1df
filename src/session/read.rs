//! The reading half of a session: from the transport to decoded messages.

use std::{
    error::Error,
    fmt,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tower::BoxError;

use super::{
    buffers::{self, BUFFER},
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
    /// How many bytes the messages took that were decoded ahead of their turn: they count as undecoded.
    ahead: usize,
    /// There may be a message in the buffer.
    decodable: bool,
    /// The codec has reserved room for the frame at hand.
    reserved: bool,
    /// The peer has ended its direction.
    ended: bool,
    framing: Framing,
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

impl Reader {
    pub(crate) fn new(framing: Framing, max_frame: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            limit: max_frame,
            ahead: 0,
            decodable: false,
            reserved: false,
            ended: false,
            framing,
        }
    }

    /// The next message of those that have arrived.
    ///
    /// # Errors
    ///
    /// The codec's on a stream, or [`FrameTooLong`]; the session cannot go on.
    #[inline]
    pub(crate) fn decode<W: Wire>(&mut self, wire: &mut W) -> Result<Decoded<W::In>, BoxError> {
        if !self.decodable {
            return Ok(if self.ended {
                Decoded::End
            } else {
                Decoded::Nothing
            });
        }
        if self.framing != Framing::Stream {
            return Ok(self.decode_unit(wire));
        }
        let capacity = self.buf.capacity();
        if let Some(message) = wire.decode(&mut self.buf, self.ended)? {
            if self.reserved {
                self.limit = wire.max_frame();
                self.reserved = false;
            }
            return Ok(Decoded::Message(message));
        }
        if self.ended {
            self.decodable = false;
            self.release();
            return Ok(Decoded::End);
        }
        if self.buf.capacity() > capacity.max(self.limit) && !self.reserved {
            self.reserved = true;
            self.limit = self.buf.capacity();
        }
        if self.buf.len() >= self.limit {
            return self.ask_for_room(wire);
        }
        self.decodable = false;
        Ok(Decoded::Nothing)
    }

    /// The buffer is full and the codec yields nothing. Codecs reserve room for the frame that they know to be at hand;
    /// with no room to spare a reservation shows.
    #[cold]
    fn ask_for_room<W: Wire>(&mut self, wire: &mut W) -> Result<Decoded<W::In>, BoxError> {
        let mut tight = BytesMut::with_capacity(self.buf.len());
        tight.extend_from_slice(&self.buf);
        self.buf = tight;
        if let Some(message) = wire.decode(&mut self.buf, false)? {
            return Ok(Decoded::Message(message));
        }
        if self.reserved || self.buf.capacity() == self.buf.len() {
            return Err(Box::new(FrameTooLong { limit: self.limit }));
        }
        self.reserved = true;
        self.limit = self.buf.capacity();
        self.decodable = false;
        Ok(Decoded::Nothing)
    }

    /// One unit of a message transport is one message, to its last byte.
    fn decode_unit<W: Wire>(&mut self, wire: &mut W) -> Decoded<W::In> {
        self.decodable = false;
        let decoded = wire.decode(&mut self.buf, true);
        let left = self.buf.len();
        self.buf.clear();
        match decoded {
            Err(error) => Decoded::Bad(error),
            Ok(_) if left > 0 => Decoded::Bad(Box::new(LeftoverBytes { bytes: left })),
            Ok(Some(message)) => Decoded::Message(message),
            Ok(None) => Decoded::Nothing,
        }
    }

    /// Whether the peer has ended its direction and all before that is decoded.
    #[inline]
    pub(crate) const fn is_finished(&self) -> bool {
        self.ended && !self.decodable
    }

    /// Whether what lies here is the beginning of a frame.
    #[inline]
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.decodable && !self.buf.is_empty()
    }

    /// Whether a read could bring anything: the peer goes on, and there is room for it.
    #[inline]
    pub(crate) fn wants_more(&self) -> bool {
        !self.ended
            && match self.framing {
                Framing::Stream => self.buf.len() + self.ahead < self.limit,
                Framing::Messages | Framing::Datagrams => {
                    !self.decodable && self.ahead < self.limit
                }
            }
    }

    /// Decodes a message ahead of its turn, and says how many bytes it took. Beyond the bound on what may wait there is
    /// nothing.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub(crate) fn decode_ahead<W: Wire>(
        &mut self,
        wire: &mut W,
    ) -> Result<(Decoded<W::In>, usize), BoxError> {
        if !self.decodable || self.ahead >= self.limit {
            return Ok((Decoded::Nothing, 0));
        }
        let before = self.buf.len();
        let decoded = self.decode(wire)?;
        let bytes = before.saturating_sub(self.buf.len());
        // one of no bytes takes memory as well
        let bytes = bytes.max(1);
        if let Decoded::Message(_) = decoded {
            self.ahead += bytes;
        }
        Ok((decoded, bytes))
    }

    /// What was decoded ahead is dropped.
    pub(crate) const fn forget_ahead(&mut self) {
        self.ahead = 0;
    }

    /// It is the turn of a message that took so many bytes.
    pub(crate) const fn caught_up(&mut self, bytes: usize) {
        self.ahead -= bytes;
    }

    /// Reads once. Only while [`wants_more`](Self::wants_more).
    #[inline]
    pub(crate) fn poll_read<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<Received>> {
        self.make_room();
        let limit = (self.buf.capacity() - self.buf.len()).min(self.room());
        let received = ready!(wire.poll_recv(cx, &mut self.buf, limit))?;
        match received {
            Received::Data(_) => self.decodable = true,
            Received::Control(_) | Received::Lost(_) => {}
            Received::End => {
                self.ended = true;
                // of a stream the end may complete a message; of messages it is none, not even an empty one
                self.decodable = self.framing == Framing::Stream;
            }
        }
        Poll::Ready(Ok(received))
    }

    /// Reads once and forgets what was read; `false` when there is nothing to be read now.
    pub(crate) fn discard<W: Wire>(&mut self, wire: &mut W, cx: &mut Context<'_>) -> bool {
        self.buf.clear();
        let more = self.wants_more() && matches!(self.poll_read(wire, cx), Poll::Ready(Ok(_)));
        self.decodable = false;
        more
    }

    /// How many bytes may still be read.
    #[inline]
    fn room(&self) -> usize {
        let room = self.limit - self.buf.len();
        if self.framing == Framing::Stream && self.ahead > 0 {
            room - self.ahead
        } else {
            room
        }
    }

    #[inline]
    fn make_room(&mut self) {
        if self.buf.capacity() == 0 {
            self.buf = buffers::take();
            return;
        }
        let least = LEAST_READ.min(self.room());
        if self.buf.capacity() - self.buf.len() >= least || self.buf.try_reclaim(least) {
            return;
        }
        let mut roomy = if self.buf.len() + least <= BUFFER {
            buffers::take()
        } else {
            BytesMut::with_capacity((self.buf.len() * 2).min(self.limit))
        };
        roomy.extend_from_slice(&self.buf);
        buffers::give(std::mem::replace(&mut self.buf, roomy));
    }

    /// Before a wait: an idle session holds no buffer, and one that waits for the rest of a small frame a small one.
    #[inline]
    pub(crate) fn rest(&mut self) {
        if self.buf.is_empty() {
            if self.buf.capacity() > 0 {
                self.release();
            }
        } else if self.buf.len() <= LEAST_READ && self.buf.capacity() > 2 * LEAST_READ {
            let small = BytesMut::from(&self.buf[..]);
            buffers::give(std::mem::replace(&mut self.buf, small));
        }
    }

    /// Gives the buffer back with whatever is in it.
    pub(crate) fn release(&mut self) {
        buffers::give(std::mem::take(&mut self.buf));
    }
}

/// The source of [`CloseReason::Decode`](getty_layers::CloseReason::Decode) when the read buffer was full and the codec
/// had found no message in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameTooLong {
    /// How many bytes the buffer held.
    pub limit: usize,
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no frame within {} bytes; `CodecLayer::with_max_frame` sets the bound for codecs that reserve no room",
            self.limit
        )
    }
}

impl Error for FrameTooLong {}

/// The source of [`CloseReason::Decode`](getty_layers::CloseReason::Decode) when a message of a message transport was
/// longer than what the codec decoded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftoverBytes {
    /// How many bytes were left.
    pub bytes: usize,
}

impl fmt::Display for LeftoverBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes left over after the message", self.bytes)
    }
}

impl Error for LeftoverBytes {}
