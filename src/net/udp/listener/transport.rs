//! The transport of one peer's session.

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::CloseReason;

use super::{flow::Flow, listener_socket::ListenerSocket, peer::Peer};
use crate::{
    net::udp::socket::{Route, SendBatch, max_payload_to},
    transport::{Framing, Received, Transport},
};

/// Transport of one peer's session, created by [`UdpListener`](super::UdpListener).
///
/// Datagrams that the operating system refuses to send are dropped and counted, as if the
/// network had lost them. An error about a datagram never closes the session.
pub struct UdpPeer {
    socket: Arc<ListenerSocket>,
    peer: Arc<Peer>,
    /// Key of the peer in the socket's table.
    key: usize,
    outgoing: SendBatch,
    /// The next read returns a datagram at once.
    has_more: bool,
}

impl UdpPeer {
    pub(super) fn new(socket: Arc<ListenerSocket>, peer: Arc<Peer>, key: usize) -> Self {
        Self {
            socket,
            peer,
            key,
            outgoing: SendBatch::new(),
            has_more: false,
        }
    }

    fn route(&self) -> Route {
        let Flow { peer, local } = *self.peer.flow();
        Route {
            peer,
            local: self.socket.socket().reply_source(local),
        }
    }

    fn record_unsent(&self, error: &io::Error) {
        tracing::debug!(peer = %self.peer.flow().peer, %error, "a datagram was not sent");
        self.socket.counters().unsent.add(1);
    }
}

impl Transport for UdpPeer {
    fn framing(&self) -> Framing {
        Framing::Datagrams
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        self.peer.poll_recv(cx, buf, &mut self.has_more).map(Ok)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let route = self.route();
        loop {
            let pushed = self
                .outgoing
                .poll_push(self.socket.socket(), cx, route, bufs);
            match ready!(pushed) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => self.record_unsent(&error),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(self.socket.socket(), cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.record_unsent(&error),
            }
        }
    }

    fn max_message(&self) -> usize {
        max_payload_to(self.peer.flow().peer).min(self.socket.settings().max_datagram)
    }

    // (design.md: Why does the session loop check `has_more`?)
    #[inline]
    fn has_more(&self) -> bool {
        self.has_more
    }

    /// Does nothing. UDP has no close, so the peer is not notified.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for UdpPeer {
    fn drop(&mut self) {
        self.peer.clear_inline();
        self.socket.session_ended(self.key, &self.peer);
    }
}

impl fmt::Debug for UdpPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPeer")
            .field("peer", &self.peer.flow().peer)
            .field("local", &self.socket.socket().local_addr())
            .finish_non_exhaustive()
    }
}
