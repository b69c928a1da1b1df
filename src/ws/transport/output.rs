//! What waits to be written: whole frames, so that none is ever within another.

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

use crate::{
    session::buffers,
    ws::{
        Messages, Role, WsClose,
        mask::{self, Masks},
        message::{Kind, NoKind, NotText},
    },
};

/// So many bytes wait at most before a message is taken; it may overshoot by its own frame.
const HIGH: usize = 64 * 1024;
/// A payload of this size is written from where it lies, as far as the stream takes it.
const LARGE: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Output {
    /// Frames that wait to be written.
    frames: BytesMut,
    /// How many bytes the stream took.
    written: u64,
    messages: Messages,
    /// A client's.
    masks: Option<Box<Masks>>,
    /// Frames that no message of the session's brings along wait for a flush.
    owes: bool,
    /// The answer to the last of the pings that came while too much waited.
    late_pong: Option<Box<[u8]>>,
}

impl Output {
    pub(super) fn new(role: Role, messages: Messages) -> Self {
        Self {
            frames: BytesMut::new(),
            written: 0,
            messages,
            masks: (role == Role::Client).then(|| Box::new(Masks::new())),
            owes: false,
            late_pong: None,
        }
    }

    /// Whether frames of the protocol's own wait for a flush.
    #[inline]
    pub(super) const fn owes(&self) -> bool {
        self.owes
    }

    /// How many bytes the stream took.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Takes `bufs` as one message.
    pub(super) fn poll_send<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
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
        let opcode = OpCode::Data(match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        });
        let before = self.frames.len();
        let header = self.header(opcode, length - tag);
        let payload = self.frames.len();
        let mut skip = tag;
        if let [buf] = bufs
            && buf.len() >= LARGE
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

    /// Writes what waits and then `payload`, and keeps what the stream does not take.
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
            self.written += written as u64;
            let waited = written.min(self.frames.len());
            self.frames.advance(waited);
            payload = &payload[written - waited..];
        }
        self.frames.extend_from_slice(payload);
        Ok(())
    }

    /// Ready when a message may be taken.
    pub(super) fn poll_room<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frames.len() < HIGH {
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
            self.written += written as u64;
            if written == self.frames.len() {
                self.frames.clear(); // unlike an advance, this leaves the whole block to be used again
            } else {
                self.frames.advance(written);
            }
            if let Some(pong) = self.late_pong.take() {
                self.pong(&pong);
            }
        }
        buffers::give(std::mem::take(&mut self.frames));
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
        self.owes = false;
        Poll::Ready(Ok(()))
    }

    /// Drops what waits to be written, because the stream takes nothing more.
    pub(super) fn give_up(&mut self) {
        self.owes = false;
        self.late_pong = None;
        buffers::give(std::mem::take(&mut self.frames));
    }

    /// A ping without content.
    pub(super) fn ping(&mut self) {
        self.control(Control::Ping, &[]);
    }

    /// The answer to a ping.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        self.owes = true;
        if self.frames.len() >= HIGH {
            self.late_pong = Some(payload.into());
        } else {
            self.control(Control::Pong, payload);
        }
    }

    /// The last frame of all.
    pub(super) fn close(&mut self, close: &WsClose) {
        self.owes = true;
        self.late_pong = None;
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

    /// Appends a frame's header, and gives the mask that it says.
    fn header(&mut self, opcode: OpCode, length: usize) -> Option<[u8; 4]> {
        if self.frames.capacity() == 0 {
            self.frames = buffers::take();
        }
        let mask = self.masks.as_mut().map(|masks| masks.next());
        // a server's short frame: what most are, and two bytes
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
            unreachable!("memory takes what is written to it");
        }
        mask
    }
}
