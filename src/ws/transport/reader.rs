//! Receiving direction of a WebSocket: the read buffer, and the assembler that parses it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::{
    assembler::{Event, MessageAssembler},
    settings::{Limits, Role},
};
use crate::{
    buffer_pool,
    ws::{deflate::PerMessage, error::WsError},
};

/// Minimum room of a read in bytes.
const MIN_READ: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct FrameReader {
    role: Role,
    limits: Limits,
    /// Bytes that have arrived and are not parsed.
    input: BytesMut,
    assembler: MessageAssembler,
}

/// Result of one read.
#[derive(Debug)]
pub(super) enum Read {
    /// Bytes have arrived.
    Data,
    /// The stream has ended.
    End,
    /// Bytes have arrived that are not valid in their message.
    Invalid(WsError),
}

impl FrameReader {
    /// Creates a new reader. `input` has arrived together with the opening handshake.
    pub(super) fn new(role: Role, limits: Limits, input: BytesMut) -> Self {
        Self {
            role,
            limits,
            input,
            assembler: MessageAssembler::new(),
        }
    }

    pub(super) const fn role(&self) -> Role {
        self.role
    }

    /// Returns `true` if a message or a header has begun to arrive and is incomplete.
    pub(super) fn is_incomplete(&self) -> bool {
        self.assembler.is_incomplete() || !self.input.is_empty()
    }

    /// Returns the next event in the bytes that have arrived. A message is appended to `out`, after
    /// a tag byte with its kind if `tags` is set.
    #[inline]
    pub(super) fn next(
        &mut self,
        tags: bool,
        deflate: &mut Option<PerMessage>,
        out: &mut BytesMut,
    ) -> Result<Event, WsError> {
        self.assembler
            .next(self.role, self.limits, tags, deflate, &mut self.input, out)
    }

    /// Adds `bytes` of an event that was not reported to the next one.
    pub(super) const fn report_later(&mut self, bytes: usize) {
        self.assembler.report_later(bytes);
    }

    /// Ignores compressed messages from now on, so that none is inflated.
    #[cold]
    pub(super) fn discard_compressed(&mut self, deflate: &mut PerMessage) {
        if deflate.is_inflating() {
            self.assembler.discard_compressed();
        }
        deflate.discard();
    }

    /// Reads once from `io`. The rest of a large uncompressed frame is read to where it stays.
    pub(super) fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        deflate: &Option<PerMessage>,
    ) -> Poll<io::Result<Read>> {
        if self.input.is_empty()
            && let Some((partial, remaining)) = self.assembler.large_remainder(deflate)
        {
            let room = remaining.min(partial.capacity() - partial.len());
            let bytes = ready!(poll_read_buf(Pin::new(io), cx, &mut partial.limit(room)))?;
            if bytes == 0 {
                return Poll::Ready(Ok(Read::End));
            }
            return Poll::Ready(Ok(match self.assembler.record_read(bytes) {
                Ok(()) => Read::Data,
                Err(error) => Read::Invalid(error),
            }));
        }
        if self.input.capacity() - self.input.len() < MIN_READ {
            let mut larger = buffer_pool::take();
            larger.extend_from_slice(&self.input);
            buffer_pool::put(std::mem::replace(&mut self.input, larger));
        }
        let bytes = ready!(poll_read_buf(Pin::new(io), cx, &mut self.input))?;
        Poll::Ready(Ok(if bytes == 0 { Read::End } else { Read::Data }))
    }

    /// Drops everything that has arrived because it will not be parsed.
    pub(super) fn clear(&mut self) {
        self.assembler = MessageAssembler::new();
        buffer_pool::put(std::mem::take(&mut self.input));
    }

    /// Returns the buffer to the pool before a wait. At most a partial header is kept, in a small
    /// buffer.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            if self.input.capacity() > 0 {
                buffer_pool::put(std::mem::take(&mut self.input));
            }
        } else if self.input.capacity() > MIN_READ {
            let small = BytesMut::from(&self.input[..]);
            buffer_pool::put(std::mem::replace(&mut self.input, small));
        }
    }
}
