//! Datagrams to send. Those of one length to one peer are sent in one call (design.md: Why are
//! replies of different sessions not sent in one call?).

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use getty_core::sync::WaiterId;
use quinn_udp::is_msg_size_err;

use super::socket::{Route, Socket};
use crate::buffer_pool;

/// Maximum length of datagrams that are sent together, in bytes. The kernel does not split a
/// piece into datagrams above the network's limit, and every IPv6 network carries this length.
const MAX_SEGMENT: usize = 1232;
/// Maximum length of the piece that one call sends, in bytes.
const MAX_PIECE: usize = 65_000;

/// Datagrams to one destination that are accepted and not yet sent.
///
/// All have one length, except that the last one may be shorter.
#[derive(Debug)]
pub(crate) struct SendBatch {
    bytes: BytesMut,
    route: Option<Route>,
    segment: usize,
    count: usize,
    /// Maximum length of datagrams that are sent together, in bytes. Lowered if the path to a peer
    /// carries less than [`MAX_SEGMENT`].
    max_segment: usize,
    /// Identifies this batch among those that wait until the socket is writable.
    waiter: Option<WaiterId>,
}

impl SendBatch {
    pub(crate) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            route: None,
            segment: 0,
            count: 0,
            max_segment: MAX_SEGMENT,
            waiter: None,
        }
    }

    /// Accepts one datagram. Sends the batch first if the datagram cannot join it.
    ///
    /// # Errors
    ///
    /// Returns the socket's error about earlier datagrams of the batch. They are lost, and this
    /// datagram is not accepted.
    pub(crate) fn poll_push(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        route: Route,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if !self.accepts(socket, route, len) {
            ready!(self.poll_flush(socket, cx))?;
        }
        if self.count == 0 {
            self.bytes = buffer_pool::take();
            self.route = Some(route);
            self.segment = len;
        }
        for buf in bufs {
            self.bytes.extend_from_slice(buf);
        }
        self.count += 1;
        Poll::Ready(Ok(len))
    }

    /// Returns `true` if a datagram of `len` bytes to `route` can join the batch.
    fn accepts(&self, socket: &Socket, route: Route, len: usize) -> bool {
        self.count == 0
            || (self.count < socket.max_segments()
                && self.route == Some(route)
                // a shorter datagram must be the last
                && self.bytes.len() == self.count * self.segment
                && len > 0
                && len <= self.segment
                && self.segment <= self.max_segment
                && self.bytes.len() + len <= MAX_PIECE)
    }

    /// Sends the whole batch.
    ///
    /// # Errors
    ///
    /// Returns the socket's error. The refused datagrams are lost unless the error is a refusal by
    /// the peer's machine, which concerns earlier datagrams.
    pub(crate) fn poll_flush(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(route) = self.route {
            let together = if self.segment > self.max_segment {
                1
            } else {
                socket.max_segments().min(self.count)
            };
            let len = (together * self.segment).min(self.bytes.len());
            let segment = (together > 1).then_some(self.segment);
            match socket.try_send(&route, &self.bytes[..len], segment) {
                Ok(()) => self.remove_front(together, len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_writable(cx, &mut self.waiter))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // the hardware cannot split a piece, which quinn-udp has noticed: send each
                // separately
                Err(_) if together > socket.max_segments() => {}
                // the path carries less than this length: sent separately they can be fragmented
                Err(error) if together > 1 && is_msg_size_err(&error) => {
                    self.max_segment = self.segment - 1;
                }
                // reports an earlier datagram; this one was not sent and stays in the batch
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    self.remove_front(together, len);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn remove_front(&mut self, datagrams: usize, bytes: usize) {
        self.count -= datagrams;
        if self.count == 0 {
            self.route = None;
            buffer_pool::put(std::mem::take(&mut self.bytes));
        } else {
            self.bytes.advance(bytes);
        }
    }
}
