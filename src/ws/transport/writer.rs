//! Sending direction of a WebSocket: a buffer of whole frames so that frames never interleave.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{
    assembler::ControlPayload,
    mask::{self, Masks},
    settings::Role,
};
use crate::{
    buffer_pool,
    ws::{
        close::WsClose,
        deflate::PerMessage,
        message::{Kind, Messages, NoKind, NotText},
    },
};

/// Number of buffered bytes at which no more messages are taken. The last message may exceed
/// it.
const HIGH_WATERMARK: usize = 64 * 1024;
/// Minimum length in bytes of a payload that is written without a copy.
const LARGE_PAYLOAD: usize = 16 * 1024;
/// First bit of a header that marks its message as compressed.
const RSV1: u8 = 0x40;

#[derive(Debug)]
pub(super) struct FrameWriter {
    /// Frames to be written.
    frames: BytesMut,
    /// Number of bytes that the stream has taken.
    bytes_flushed: u64,
    messages: Messages,
    /// Source of masks, for a client.
    masks: Option<Box<Masks>>,
    /// `true` if a control frame awaits a flush that no message will cause.
    needs_flush: bool,
    /// Payload of the last ping that arrived while too many bytes were buffered.
    deferred_pong: Option<Box<ControlPayload>>,
}

impl FrameWriter {
    pub(super) fn new(role: Role, messages: Messages) -> Self {
        Self {
            frames: BytesMut::new(),
            bytes_flushed: 0,
            messages,
            masks: (role == Role::Client).then(|| Box::new(Masks::new())),
            needs_flush: false,
            deferred_pong: None,
        }
    }

    /// Sets the kind of messages.
    pub(super) const fn set_messages(&mut self, messages: Messages) {
        self.messages = messages;
    }

    /// Returns `true` if a control frame awaits a flush that no message will cause.
    #[inline]
    pub(super) const fn needs_flush(&self) -> bool {
        self.needs_flush
    }

    /// Returns the number of bytes that the stream has taken.
    pub(super) const fn bytes_flushed(&self) -> u64 {
        self.bytes_flushed
    }

    /// Takes `bufs` as one message. With [`Messages::Both`], its first byte is the tag of its kind.
    pub(super) fn poll_send<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        deflate: &mut Option<PerMessage>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(io, cx))?;
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let (kind, tag) = match self.messages {
            Messages::Binary => (Kind::Binary, 0),
            Messages::Text => (Kind::Text, 0),
            Messages::Both => {
                let tag = bufs.iter().find_map(|buf| buf.first().copied());
                (tag.and_then(Kind::from_tag).ok_or(NoKind)?, 1)
            }
        };
        if let Some(deflate) = deflate
            && length - tag >= deflate.threshold()
            && ready!(self.poll_deflate(cx, bufs, kind, tag, deflate))?
        {
            return Poll::Ready(Ok(length));
        }
        let opcode = OpCode::Data(match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        });
        let before = self.frames.len();
        let header = self.header(opcode, length - tag);
        let payload = self.frames.len();
        let mut skip = tag;
        if let [buf] = bufs
            && buf.len() >= LARGE_PAYLOAD
            && header.is_none()
            && kind == Kind::Binary
        {
            self.write_through(io, cx, &buf[tag..])?;
            return Poll::Ready(Ok(length));
        }
        for buf in bufs {
            let part = &buf[skip.min(buf.len())..];
            skip -= skip.min(buf.len());
            self.frames.extend_from_slice(part);
        }
        if kind == Kind::Text && std::str::from_utf8(&self.frames[payload..]).is_err() {
            self.frames.truncate(before);
            return Poll::Ready(Err(NotText.into()));
        }
        if let Some(mask) = header {
            mask::apply(&mut self.frames[payload..], mask);
        }
        Poll::Ready(Ok(length))
    }

    /// Takes the message behind its tag if it can be compressed. Returns `false` if it must be sent
    /// plain.
    #[inline(never)]
    fn poll_deflate(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        kind: Kind,
        tag: usize,
        deflate: &mut PerMessage,
    ) -> Poll<io::Result<bool>> {
        ready!(deflate.poll_budget(cx));
        let mut joined = BytesMut::new();
        let message = match bufs {
            [buf] => &buf[tag..],
            bufs => {
                buffer_pool::take_into(&mut joined);
                bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
                &joined[tag..]
            }
        };
        if kind == Kind::Text && std::str::from_utf8(message).is_err() {
            return Poll::Ready(Err(NotText.into()));
        }
        let first = 0x80 | RSV1 | kind.tag();
        let is_taken = deflate
            .compress(message, |payload| self.compressed(first, payload))
            .is_some();
        if joined.capacity() > 0 {
            buffer_pool::put(joined);
        }
        Poll::Ready(Ok(is_taken))
    }

    /// Appends the frame of a compressed message.
    fn compressed(&mut self, first: u8, payload: &[u8]) {
        let mask = self.compressed_header(first, payload.len());
        let from = self.frames.len();
        self.frames.extend_from_slice(payload);
        if let Some(mask) = mask {
            mask::apply(&mut self.frames[from..], mask);
        }
    }

    /// Appends the header of a compressed message, whose first byte is `first`. Returns its mask.
    fn compressed_header(&mut self, first: u8, length: usize) -> Option<[u8; 4]> {
        let before = self.frames.len();
        let mask = self.header(OpCode::Data(Data::Binary), length);
        self.frames[before] = first;
        mask
    }

    /// Takes a message that was prepared for many sessions: the first byte of its frame with the
    /// compressed payload.
    pub(super) fn poll_send_prepared<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        prepared: &[u8],
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_room(io, cx))?;
        let Some((first, payload)) = prepared.split_first() else {
            return Poll::Ready(Ok(()));
        };
        if payload.len() >= LARGE_PAYLOAD && self.masks.is_none() {
            self.compressed_header(*first, payload.len());
            return Poll::Ready(self.write_through(io, cx, payload));
        }
        self.compressed(*first, payload);
        Poll::Ready(Ok(()))
    }

    /// Writes the buffered frames and then `payload`. The rest of the payload is buffered.
    fn write_through<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        mut payload: &[u8],
    ) -> io::Result<()> {
        while !payload.is_empty() {
            let bufs = [IoSlice::new(&self.frames), IoSlice::new(payload)];
            let Poll::Ready(written) = Pin::new(&mut *io).poll_write_vectored(cx, &bufs)? else {
                break;
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.bytes_flushed += written as u64;
            let buffered = written.min(self.frames.len());
            self.frames.advance(buffered);
            payload = &payload[written - buffered..];
        }
        self.frames.extend_from_slice(payload);
        Ok(())
    }

    /// Waits until a message can be taken.
    pub(super) fn poll_room<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frames.len() < HIGH_WATERMARK {
            return Poll::Ready(Ok(()));
        }
        self.poll_write(io, cx)
    }

    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.frames.is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, &self.frames))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes_flushed += written as u64;
            if written == self.frames.len() {
                self.frames.clear(); // Unlike `advance`, this keeps the whole buffer for reuse.
            } else {
                self.frames.advance(written);
            }
            if let Some(pong) = self.deferred_pong.take() {
                self.pong(*pong);
            }
        }
        buffer_pool::put(std::mem::take(&mut self.frames));
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.frames.is_empty() {
            ready!(self.poll_write(io, cx))?;
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.needs_flush = false;
        Poll::Ready(Ok(()))
    }

    /// Drops the buffered frames because the stream takes no more bytes.
    pub(super) fn discard(&mut self) {
        self.needs_flush = false;
        self.deferred_pong = None;
        buffer_pool::put(std::mem::take(&mut self.frames));
    }

    /// Queues a ping without a payload.
    pub(super) fn ping(&mut self) {
        self.control(Control::Ping, &[]);
    }

    /// Queues the answer to a ping.
    pub(super) fn pong(&mut self, payload: ControlPayload) {
        self.needs_flush = true;
        if self.frames.len() >= HIGH_WATERMARK {
            self.deferred_pong = Some(Box::new(payload));
        } else {
            self.control(Control::Pong, payload.as_slice());
        }
    }

    /// Queues the close frame, which is the last frame.
    pub(super) fn close(&mut self, close: &WsClose) {
        self.needs_flush = true;
        self.deferred_pong = None;
        self.control(Control::Close, &close.payload());
    }

    fn control(&mut self, control: Control, payload: &[u8]) {
        let mask = self.header(OpCode::Control(control), payload.len());
        let from = self.frames.len();
        self.frames.extend_from_slice(payload);
        if let Some(mask) = mask {
            mask::apply(&mut self.frames[from..], mask);
        }
    }

    /// Appends the header of a frame and returns its mask.
    fn header(&mut self, opcode: OpCode, length: usize) -> Option<[u8; 4]> {
        if self.frames.capacity() == 0 {
            self.frames = buffer_pool::take();
        }
        let mask = self.masks.as_mut().map(|masks| masks.next());
        // The short frame of a server is the most frequent one. Its header has two bytes.
        if mask.is_none()
            && let Some(length) = u8::try_from(length).ok().filter(|length| *length <= 125)
        {
            self.frames
                .extend_from_slice(&[0x80 | u8::from(opcode), length]);
            return None;
        }
        let header = FrameHeader {
            opcode,
            mask,
            ..FrameHeader::default()
        };
        if header
            .format(length as u64, &mut (&mut self.frames).writer())
            .is_err()
        {
            unreachable!("a write to memory cannot fail");
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A connection that takes nothing.
    struct Full;

    impl AsyncWrite for Full {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    fn is_taken(writer: &mut FrameWriter, length: usize) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let message = vec![0; length];
        writer
            .poll_send(&mut Full, &mut cx, &[IoSlice::new(&message)], &mut None)
            .map(Result::unwrap)
            .is_ready()
    }

    /// Returns a writer that holds this number of bytes.
    fn holding(bytes: usize) -> FrameWriter {
        let mut writer = FrameWriter::new(Role::Server, Messages::Binary);
        assert!(is_taken(&mut writer, bytes - 4));
        assert_eq!(writer.frames.len(), bytes);
        writer
    }

    #[test]
    fn messages_are_taken_below_the_high_watermark() {
        assert!(is_taken(&mut holding(HIGH_WATERMARK - 1), 1));
        assert!(!is_taken(&mut holding(HIGH_WATERMARK), 1));
    }

    #[test]
    fn pong_is_deferred_at_the_high_watermark() {
        for (bytes, is_deferred) in [(HIGH_WATERMARK - 1, false), (HIGH_WATERMARK, true)] {
            let mut writer = holding(bytes);
            writer.pong(ControlPayload::empty());
            assert_eq!(writer.deferred_pong.is_some(), is_deferred, "{bytes}");
            assert_eq!(writer.frames.len() > bytes, !is_deferred, "{bytes}");
        }
    }
}
