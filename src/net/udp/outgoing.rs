//! Datagrams on their way out: those of one length to one peer leave in one call.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};

use super::socket::{Place, Route, Socket};
use crate::session::buffers;

/// The longest datagram that is sent together with others. The kernel refuses to cut one piece into datagrams longer
/// than the network's own, and what every IPv6 network carries seldom is.
const LONGEST_SEGMENT: usize = 1232;
/// One piece may be as long as the longest datagram.
const LONGEST_PIECE: usize = 65_000;

/// Datagrams that were taken and not yet sent: any number of one length, and a last one that may be shorter.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: BytesMut,
    route: Option<Route>,
    segment: usize,
    count: usize,
    /// The longest datagram that is sent together with others: less than that of all, where the way to a peer is narrow.
    longest: usize,
    place: Place,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            route: None,
            segment: 0,
            count: 0,
            longest: LONGEST_SEGMENT,
            place: Place::default(),
        }
    }

    /// Takes one datagram, once what cannot leave together with it has left.
    ///
    /// # Errors
    ///
    /// The socket's, about the datagrams that were taken before: those are lost, and this one is not taken.
    pub(super) fn poll_push(
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
            self.bytes = buffers::take();
            self.route = Some(route);
            self.segment = len;
        }
        for buf in bufs {
            self.bytes.extend_from_slice(buf);
        }
        self.count += 1;
        Poll::Ready(Ok(len))
    }

    fn accepts(&self, socket: &Socket, route: Route, len: usize) -> bool {
        self.count == 0
            || (self.count < socket.most_segments()
                && self.route == Some(route)
                // the last one was as long as the others
                && self.bytes.len() == self.count * self.segment
                && len > 0
                && len <= self.segment
                && self.segment <= self.longest
                && self.bytes.len() + len <= LONGEST_PIECE)
    }

    /// Sends all that was taken.
    ///
    /// # Errors
    ///
    /// The socket's; what it refused is lost, unless the peer's machine did so.
    pub(super) fn poll_flush(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(route) = self.route {
            let together = if self.segment > self.longest {
                1
            } else {
                socket.most_segments().min(self.count)
            };
            let len = (together * self.segment).min(self.bytes.len());
            let segment = (together > 1).then_some(self.segment);
            match socket.try_send(&route, &self.bytes[..len], segment) {
                Ok(()) => self.forget(together, len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_writable(cx, &mut self.place))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // the network's hardware cannot cut a piece into datagrams: from here on each goes alone
                Err(_) if together > socket.most_segments() => {}
                // the way to the peer is narrower than these datagrams: alone they go in fragments
                Err(error) if together > 1 && is_too_long(&error) => {
                    self.longest = self.segment - 1;
                }
                // about one that was sent before; this one was not looked at, and waits
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    self.forget(together, len);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn forget(&mut self, datagrams: usize, bytes: usize) {
        self.count -= datagrams;
        if self.count == 0 {
            self.route = None;
            buffers::give(std::mem::take(&mut self.bytes));
        } else {
            self.bytes.advance(bytes);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_too_long(_: &io::Error) -> bool {
    false
}
