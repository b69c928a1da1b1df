//! Of a message transport: several messages in one buffer, each to be decoded by itself.

use std::{
    io,
    task::{Context, Poll},
};

use super::{Decoded, InputEnd, Rare, Reader};
use crate::{
    session::{undecodable::LeftoverBytes, wire::Wire},
    transport::{Framing, Received},
};

/// A read takes at most so many messages that have arrived, so that one flush serves them all.
const UNITS_A_READ: usize = 64;
/// What a message that waits counts against the bound beside its bytes: it may have none.
const UNIT_COST: usize = 16;

impl Reader {
    /// Reads the messages that have arrived, as far as there is room. What comes upon them, an end or a failure, waits
    /// for the next read: they are handled first.
    #[inline(never)]
    pub(super) fn poll_units<W: Wire>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        let (mut messages, mut bytes) = (0, None);
        self.emptied = false;
        let mut after = self.rare.get_or_insert_with(Rare::boxed).after.take();
        while after.is_none() && messages < UNITS_A_READ && self.has_room() {
            let before = self.buf.len();
            match self.poll_recv(wire, cx) {
                Poll::Ready(Ok(Received::Data(n))) => {
                    let rare = self.rare.get_or_insert_with(Rare::boxed);
                    rare.units.push_back(self.buf.len() - before);
                    messages += 1;
                    bytes = Some(bytes.unwrap_or(0) + n);
                }
                Poll::Ready(Ok(Received::Control(n))) => {
                    messages += 1;
                    bytes = Some(bytes.unwrap_or(0) + n);
                }
                Poll::Ready(other) => after = Some(other),
                Poll::Pending => {
                    self.emptied = true;
                    break;
                }
            }
        }
        let rare = self.rare.get_or_insert_with(Rare::boxed);
        self.decodable = !rare.units.is_empty();
        match bytes {
            Some(bytes) => {
                rare.after = after;
                Poll::Ready(Ok(Received::Data(bytes)))
            }
            None => {
                if let Some(Ok(Received::End)) = after {
                    self.end = InputEnd::Complete;
                }
                after.map_or(Poll::Pending, Poll::Ready)
            }
        }
    }

    /// One unit of a message transport is one message, to its last byte. Behind one that the codec keeps to itself, such
    /// as an answer that is waited for, there may be more.
    #[inline(never)]
    pub(super) fn decode_unit<W: Wire>(&mut self, wire: &mut W) -> Decoded<W::In> {
        loop {
            let (length, more) = match &mut self.rare {
                Some(rare) => (rare.units.pop_front(), !rare.units.is_empty()),
                None => (None, false),
            };
            let length = length.unwrap_or(self.buf.len());
            self.decodable = more;
            let mut part;
            let unit = if self.decodable {
                part = self.buf.split_to(length);
                &mut part
            } else {
                &mut self.buf
            };
            let decoded = wire.decode(unit, true);
            let left = unit.len();
            if !self.decodable {
                self.buf.clear();
            }
            match decoded {
                Err(error) => return Decoded::Bad(error),
                Ok(_) if left > 0 => return Decoded::Bad(Box::new(LeftoverBytes { bytes: left })),
                Ok(Some(message)) => return Decoded::Message(message),
                Ok(None) if self.decodable => {}
                Ok(None) => return Decoded::Nothing,
            }
        }
    }

    #[inline(never)]
    pub(super) fn wants_more_messages(&self) -> bool {
        if self.framing == Framing::Messages {
            self.has_room() || self.rare.as_ref().is_some_and(|rare| rare.after.is_some())
        } else {
            !self.decodable && self.ahead() < self.limit
        }
    }

    /// Whether another message may be read ahead.
    fn has_room(&self) -> bool {
        let beside = |rare: &Rare| rare.ahead + rare.units.len() * UNIT_COST;
        self.buf.len() + self.rare.as_deref().map_or(0, beside) < self.limit
    }
}
