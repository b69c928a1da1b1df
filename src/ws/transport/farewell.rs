//! The end of a WebSocket: a close frame each way, and then the stream's own end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::WsTransport;
use crate::{
    transport::Ended,
    ws::{Role, WsClose, incoming::Event},
};

/// So many reads of what comes too late, then it is others' turn.
const READS: usize = 32;

/// How far the end of a WebSocket is.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the two directions end by themselves, in any order"
)]
pub(super) struct Farewell {
    /// Our close frame is on its way.
    pub(super) said: bool,
    /// The peer's close frame has come.
    pub(super) heard: bool,
    /// What the peer sends means nothing any more.
    pub(super) failed: bool,
    /// The stream has ended.
    pub(super) ended: bool,
    /// Our direction of the stream has ended.
    shut: bool,
    /// What the peer's close frame is to be answered with.
    pub(super) answer: Option<Box<WsClose>>,
    /// Why the session is to end.
    pub(super) why: Option<Box<Ended>>,
}

impl Farewell {
    /// Whether no message comes any more.
    #[inline]
    pub(super) const fn reads_no_more(&self) -> bool {
        self.heard | self.failed | self.ended
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WsTransport<T> {
    /// Sends our close frame, waits for the peer's, and ends the stream: a server at once, a client once the server has.
    ///
    /// Whoever broke the protocol is not asked for a close frame, only for the end of what it sends: a connection that is
    /// closed while bytes lie unread is reset, and the reset may overtake our close frame. The drain deadline of the
    /// session bounds all of it.
    pub(super) fn poll_farewell(
        &mut self,
        cx: &mut Context<'_>,
        reason: &CloseReason,
    ) -> Poll<io::Result<()>> {
        if !self.end.said {
            self.end.said = true;
            match self.end.answer.take() {
                Some(close) => self.output.close(&close),
                None if self.end.ended => {}
                None => self.output.close(&WsClose::for_reason(reason)),
            }
        }
        ready!(self.output.poll_flush(&mut self.io, cx))?;
        // a peer that does not answer to pings does not answer to this
        let awaited = *reason != CloseReason::HeartbeatMissed;
        for _ in 0..READS {
            let done = self.end.ended || (self.role == Role::Server && self.end.heard) || !awaited;
            if (done || self.end.failed) && !self.end.shut {
                ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                self.end.shut = true;
            }
            if done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_last_words(cx))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and looks at nothing but a close frame.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ignored = BytesMut::new();
        while !self.end.reads_no_more() {
            let event =
                self.incoming
                    .next(self.role, self.limits, false, &mut self.input, &mut ignored);
            match event {
                Ok(Event::Nothing) => break,
                Ok(Event::Close(_)) => self.end.heard = true,
                Ok(_) => ignored.clear(),
                Err(_) => self.end.failed = true,
            }
        }
        if self.end.failed || self.end.heard {
            self.forget();
            if self.role == Role::Server && self.end.heard {
                return Poll::Ready(Ok(()));
            }
        }
        match ready!(self.poll_read(cx)) {
            Ok((0, _)) => self.end.ended = true,
            Ok((bytes, true)) => {
                if self.incoming.has_read(bytes).is_err() {
                    self.end.failed = true;
                }
            }
            Ok((_, false)) => {}
            // a peer that resets the connection has ended it, too
            Err(_) => self.end.ended = true,
        }
        Poll::Ready(Ok(()))
    }
}
