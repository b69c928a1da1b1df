//! Message transports: the read buffer holds several messages, and each is decoded separately.

use std::{
    io,
    task::{Context, Poll},
};

use super::reader::{Decoded, InputEnd, Reader};
use crate::{
    session::{error::LeftoverBytes, framed_transport::FramedTransport},
    transport::{Framing, Received},
};

/// Maximum messages taken by one read. One flush then serves the replies to all of them
/// (design.md: Why are several messages read before the first is handled?).
const MESSAGES_PER_READ: usize = 64;
/// Bytes that a waiting message counts beside its length, because it may be empty.
const MESSAGE_COST: usize = 16;

impl<In> Reader<In> {
    /// Reads the messages that have arrived as far as there is room. An end or an error behind them
    /// is kept for the next read, because the messages must be handled first.
    #[inline(never)]
    pub(super) fn poll_messages<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        let (mut messages, mut bytes) = (0, None);
        self.is_exhausted = false;
        let mut after = self.ext.get_or_default().after.take();
        while after.is_none() && messages < MESSAGES_PER_READ && self.has_room_for_message() {
            let before = self.buf.len();
            match self.poll_recv(wire, cx) {
                Poll::Ready(Ok(Received::Data(n))) => {
                    let length = self.buf.len() - before;
                    self.ext.get_or_default().lengths.push_back(length);
                    messages += 1;
                    bytes = Some(bytes.unwrap_or(0) + n);
                }
                Poll::Ready(Ok(Received::Control(n))) => {
                    messages += 1;
                    bytes = Some(bytes.unwrap_or(0) + n);
                }
                Poll::Ready(other) => after = Some(other),
                Poll::Pending => {
                    self.is_exhausted = true;
                    break;
                }
            }
        }
        let ext = self.ext.get_or_default();
        self.decodable = !ext.lengths.is_empty();
        match bytes {
            Some(bytes) => {
                ext.after = after;
                Poll::Ready(Ok(Received::Data(bytes)))
            }
            None => {
                match after {
                    Some(Ok(Received::End)) => self.end = InputEnd::Complete,
                    Some(Ok(Received::Invalid)) => self.end = InputEnd::Invalid,
                    _ => {}
                }
                after.map_or(Poll::Pending, Poll::Ready)
            }
        }
    }

    /// Decodes the next message of the transport. It must be decoded to its last byte. The codec
    /// may consume a message without a result, such as a response that a request awaits. Then the
    /// next one is decoded.
    #[inline(never)]
    pub(super) fn decode_message<W: FramedTransport<In = In>>(
        &mut self,
        wire: &mut W,
    ) -> Decoded<In> {
        loop {
            let (length, more) = match self.ext.get_mut() {
                Some(ext) => (ext.lengths.pop_front(), !ext.lengths.is_empty()),
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

    /// Returns `true` if a read could return something.
    #[inline(never)]
    pub(super) fn wants_more_messages(&self) -> bool {
        if self.framing == Framing::Messages {
            self.has_room_for_message() || self.ext.get().is_some_and(|ext| ext.after.is_some())
        } else {
            !self.decodable && self.ahead.bytes() < self.limit
        }
    }

    /// Returns `true` if another message may be read.
    fn has_room_for_message(&self) -> bool {
        let messages = self.ext.get().map_or(0, |ext| ext.lengths.len());
        self.buf.len() + self.ahead.bytes() + messages * MESSAGE_COST < self.limit
    }
}
