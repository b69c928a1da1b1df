//! Close handshake of a WebSocket: a close frame in each direction, then the end of the stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    assembler::Event,
    reader::{FrameReader, Read},
    settings::Role,
    writer::FrameWriter,
};
use crate::{
    transport::CloseCause,
    ws::{close::WsClose, deflate::PerMessage, error::WsError},
};

/// Maximum number of reads per poll while the peer's close frame is awaited. Other tasks of the
/// thread then get their turn.
const READS_PER_POLL: usize = 32;

/// State of the close handshake.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the two directions end independently, in any order"
)]
pub(super) struct CloseHandshake {
    /// Our close frame is in the writer or sent.
    sent: bool,
    /// The peer's close frame has arrived.
    received: bool,
    /// The session has failed, and the peer's frames are ignored.
    failed: bool,
    /// The peer's direction of the stream has ended.
    ended: bool,
    /// Our direction of the stream has ended.
    shut_down: bool,
    /// The answer to the peer's close frame until it is in the writer.
    answer: Option<Box<WsClose>>,
    /// The reason for the session's close until the session takes it.
    cause: Option<Box<CloseCause>>,
}

impl CloseHandshake {
    /// Returns `true` if no more messages will be received.
    #[inline]
    pub(super) const fn input_is_over(&self) -> bool {
        self.received | self.failed | self.ended
    }

    /// Returns `true` if our close frame is in the writer or sent.
    pub(super) const fn is_sent(&self) -> bool {
        self.sent
    }

    /// Returns the reason for the session's close, once.
    pub(super) fn take_cause(&mut self) -> Option<CloseCause> {
        self.cause.take().map(|cause| *cause)
    }

    /// Records a violation of the protocol. The session closes with the code of `error`.
    pub(super) fn fail(&mut self, error: WsError) {
        self.failed = true;
        self.cause = Some(Box::new(CloseCause {
            reason: error.close().into(),
            source: error.into(),
        }));
    }

    /// Records that the stream ended without a close frame.
    pub(super) fn fail_at_end(&mut self) {
        self.ended = true;
        self.fail(WsError::Truncated);
    }

    /// Records the peer's close frame. The next flush answers it, and nothing is sent afterwards.
    /// The session flushes as soon as it receives the end of the input.
    pub(super) fn receive(&mut self, close: WsClose) {
        self.received = true;
        self.answer = Some(Box::new(close.clone()));
        self.cause = Some(Box::new(CloseCause {
            reason: CloseReason::PeerClosed,
            source: close.into(),
        }));
    }

    /// Records a message of the codec that a WebSocket cannot carry. The stream is intact, so the
    /// peer will receive a close code.
    pub(super) fn fail_encoding(&mut self, error: io::Error) {
        self.failed = true;
        self.cause = Some(Box::new(CloseCause {
            reason: CloseReason::Encode,
            source: error.into(),
        }));
    }

    /// Queues the answer to the peer's close frame, if one is due.
    #[inline]
    pub(super) fn queue_answer(&mut self, writer: &mut FrameWriter) {
        if let Some(close) = self.answer.take() {
            self.sent = true;
            writer.close(&close);
        }
    }

    /// Sends our close frame, waits for the peer's and ends the stream. A server must end it at
    /// once. A client must wait for the server to end it.
    ///
    /// A peer that violated the protocol need not send a close frame, but it must end its stream.
    /// Closing a socket with unread bytes resets the connection, and the reset may overtake our
    /// close frame. The drain deadline of the session bounds the handshake.
    pub(super) fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        deflate: &mut Option<PerMessage>,
        cx: &mut Context<'_>,
        reason: &CloseReason,
    ) -> Poll<io::Result<()>> {
        if let Some(deflate) = deflate {
            reader.discard_compressed(deflate);
        }
        if !self.sent {
            self.sent = true;
            match self.answer.take() {
                Some(close) => writer.close(&close),
                None if self.ended => {}
                None => writer.close(&WsClose::for_reason(reason)),
            }
        }
        ready!(writer.poll_flush(io, cx))?;
        // A peer that does not answer pings will not answer a close frame.
        let awaited = *reason != CloseReason::HeartbeatMissed;
        let is_server = reader.role() == Role::Server;
        for _ in 0..READS_PER_POLL {
            let done = self.ended || (is_server && self.received) || !awaited;
            if (done || self.failed) && !self.shut_down {
                ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
                self.shut_down = true;
            }
            if done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_input(io, reader, deflate, cx));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once. All frames but a close frame are ignored.
    fn poll_input<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        reader: &mut FrameReader,
        deflate: &mut Option<PerMessage>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut ignored = BytesMut::new();
        while !self.input_is_over() {
            match reader.next(false, deflate, &mut ignored) {
                Ok(Event::NeedsInput) => break,
                Ok(Event::Close(_)) => self.received = true,
                Ok(_) => ignored.clear(),
                Err(_) => self.failed = true,
            }
        }
        if self.failed || self.received {
            reader.clear();
            if reader.role() == Role::Server && self.received {
                return Poll::Ready(());
            }
        }
        match ready!(reader.poll_read(io, cx, deflate)) {
            Ok(Read::Data) => {}
            Ok(Read::Invalid(_)) => self.failed = true,
            // A reset of the connection is an end, too.
            Ok(Read::End) | Err(_) => self.ended = true,
        }
        Poll::Ready(())
    }
}
