//! A WebSocket, as the session loop sees it: a transport that keeps message boundaries.

mod farewell;
mod output;

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use getty_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use self::{farewell::Farewell, output::Output};
use super::{
    Limits, Messages, Role, WsClose, WsError,
    incoming::{Event, Incoming},
    message::is_unsendable,
};
use crate::{
    session::buffers,
    transport::{Ended, Framing, Received, SendsNoMore, Transport},
};

/// A WebSocket over the byte stream `T`: what [`WsLayer`](super::WsLayer) makes of it.
///
/// An idle one holds no buffer. Pings are answered as they arrive, whatever the handlers do; of those that arrive while
/// the peer reads nothing only the last is.
pub struct WsTransport<T> {
    io: T,
    messages: Messages,
    limits: Limits,
    role: Role,
    /// What has arrived and is not taken apart.
    input: BytesMut,
    incoming: Incoming,
    output: Output,
    /// How far the end is.
    end: Farewell,
}

/// What a [`WsTransport`] is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) messages: Messages,
}

impl<T> WsTransport<T> {
    /// A WebSocket after its handshake; `input` is what came behind that.
    pub(super) fn new(io: T, setting: Setting, input: BytesMut) -> Self {
        let Setting {
            role,
            limits,
            messages,
        } = setting;
        Self {
            io,
            messages,
            limits,
            role,
            input,
            incoming: Incoming::new(),
            output: Output::new(role, messages),
            end: Farewell::default(),
        }
    }

    /// The byte stream.
    pub const fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WsTransport<T> {
    /// Reads once, to where it is wanted; how much it was, and whether it went by the buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(usize, bool)>> {
        if self.input.is_empty()
            && let Some((partial, left)) = self.incoming.rest()
        {
            let room = left.min(partial.capacity() - partial.len());
            let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut partial.limit(room));
            return read.map_ok(|n| (n, true));
        }
        if self.input.capacity() - self.input.len() < LEAST_READ {
            let mut roomy = buffers::take();
            roomy.extend_from_slice(&self.input);
            buffers::give(std::mem::replace(&mut self.input, roomy));
        }
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input).map_ok(|n| (n, false))
    }

    /// The peer did what it may not: the session closes with the code for that.
    #[cold]
    fn fail(&mut self, error: WsError) -> Received {
        self.end.failed = true;
        self.end.why = Some(Box::new(Ended {
            reason: error.close().into(),
            source: error.into(),
        }));
        self.forget();
        Received::End
    }

    /// The peer has closed. It is answered with the next flush, after which nothing is sent; the session has one as soon
    /// as it learns of the end.
    #[cold]
    fn closed_by_peer(&mut self, close: WsClose) -> Received {
        self.end.heard = true;
        self.end.answer = Some(Box::new(close.clone()));
        self.end.why = Some(Box::new(Ended {
            reason: CloseReason::PeerClosed,
            source: close.into(),
        }));
        self.forget();
        Received::End
    }

    /// The codec has made what this WebSocket cannot carry. The stream is as good as before, so the peer is told the code.
    #[cold]
    fn cannot_send(&mut self, error: io::Error) -> SendsNoMore {
        self.end.failed = true;
        self.end.why = Some(Box::new(Ended {
            reason: CloseReason::Encode,
            source: error.into(),
        }));
        self.forget();
        SendsNoMore
    }

    fn forget(&mut self) {
        self.incoming = Incoming::new();
        buffers::give(std::mem::take(&mut self.input));
    }

    /// Before a wait: what is left is the beginning of a header, or nothing.
    fn rest(&mut self) {
        if self.input.is_empty() {
            if self.input.capacity() > 0 {
                buffers::give(std::mem::take(&mut self.input));
            }
        } else if self.input.capacity() > LEAST_READ {
            let small = BytesMut::from(&self.input[..]);
            buffers::give(std::mem::replace(&mut self.input, small));
        }
    }
}

/// A read asks for no less than this.
const LEAST_READ: usize = 4 * 1024;

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for WsTransport<T> {
    fn framing(&self) -> Framing {
        Framing::Messages
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        loop {
            if self.end.reads_no_more() {
                return Poll::Ready(Ok(Received::End));
            }
            // answers to pings wait for no message of ours
            if self.output.owes()
                && let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.io, cx)
            {
                // what has arrived is still read; the stream or the next write tells of the failure
                self.output.give_up();
            }
            let event = self.incoming.next(
                self.role,
                self.limits,
                self.messages == Messages::Both,
                &mut self.input,
                buf,
            );
            match event {
                Ok(Event::Message(bytes)) => return Poll::Ready(Ok(Received::Data(bytes))),
                Ok(Event::Nothing) => {}
                Ok(Event::Progress(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
                Ok(Event::Ping(payload)) => {
                    self.output.pong(payload.as_slice());
                    let bytes = payload.as_slice().len();
                    return Poll::Ready(Ok(Received::Control(bytes)));
                }
                Ok(Event::Pong(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
                Ok(Event::Close(close)) => return Poll::Ready(Ok(self.closed_by_peer(close))),
                Err(error) => return Poll::Ready(Ok(self.fail(error))),
            }
            match self.poll_read(cx) {
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
                Poll::Ready(Ok((0, _))) => {
                    self.end.ended = true;
                    return Poll::Ready(Ok(self.fail(WsError::Truncated)));
                }
                Poll::Ready(Ok((bytes, true))) => {
                    if let Err(error) = self.incoming.has_read(bytes) {
                        return Poll::Ready(Ok(self.fail(error)));
                    }
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.end.said {
            return Poll::Ready(Err(SendsNoMore.into()));
        }
        match self.output.poll_send(&mut self.io, cx, bufs) {
            Poll::Ready(Err(error)) if is_unsendable(&error) => {
                // whoever waits for something to receive is to be told of the end
                cx.waker().wake_by_ref();
                Poll::Ready(Err(self.cannot_send(error).into()))
            }
            polled => polled,
        }
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(close) = self.end.answer.take() {
            self.end.said = true;
            self.output.close(&close);
        }
        self.output.poll_flush(&mut self.io, cx)
    }

    fn written(&self) -> u64 {
        self.output.written()
    }

    #[inline]
    fn owes(&self) -> bool {
        self.output.owes()
    }

    fn is_incomplete(&self) -> bool {
        self.incoming.is_incomplete() || !self.input.is_empty()
    }

    fn ended(&mut self) -> Option<Ended> {
        self.end.why.take().map(|why| *why)
    }

    fn has_ping(&self) -> bool {
        true
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.said {
            return Poll::Ready(Ok(()));
        }
        ready!(self.output.poll_room(&mut self.io, cx))?;
        self.output.ping();
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        self.poll_farewell(cx, reason)
    }
}

impl<T: fmt::Debug> fmt::Debug for WsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsTransport")
            .field("io", &self.io)
            .field("role", &self.role)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}
