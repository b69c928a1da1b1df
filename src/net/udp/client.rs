//! The transport of a connected client.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::CloseReason;
use tokio_util::sync::ReusableBoxFuture;

use super::{
    Ecn, longest_to,
    outgoing::Outgoing,
    probe::{ANSWER, is_probe},
    socket::{Route, Socket},
    units::Units,
};
use crate::transport::{Framing, Received, Transport};

/// What a client can be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientSettings {
    pub(super) max_datagram: usize,
    pub(super) empty: bool,
    pub(super) ignores_refusals: bool,
    /// It has sent a probe, whose answer is no message.
    pub(super) probes: bool,
}

/// A UDP socket with one peer, as [`UdpConnector`](super::UdpConnector) makes it. The operating system drops what comes
/// from others.
pub struct UdpClient {
    socket: Arc<Socket>,
    /// Waits for the socket, if it is [waiting](Self::waits).
    readable: ReusableBoxFuture<'static, io::Result<()>>,
    waits: bool,
    peer: SocketAddr,
    settings: ClientSettings,
    waiting: Units<Ecn>,
    /// The dial waits for the answer to its probe.
    pub(super) is_probing: bool,
    /// How many datagrams the session has not been told that it lost.
    lost: u32,
    outgoing: Outgoing,
}

impl UdpClient {
    pub(super) fn new(socket: Socket, peer: SocketAddr, settings: ClientSettings) -> Self {
        let socket = Arc::new(socket);
        Self {
            readable: ReusableBoxFuture::new(socket.readable()),
            socket,
            waits: false,
            peer,
            settings,
            waiting: Units::new(),
            is_probing: false,
            lost: 0,
            outgoing: Outgoing::new(),
        }
    }

    /// tokio's socket.
    pub fn get_ref(&self) -> &tokio::net::UdpSocket {
        self.socket.get_ref()
    }

    /// Reads one batch into the queue.
    ///
    /// # Errors
    ///
    /// The socket's, unless it is one that is to be ignored.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.waits {
                ready!(self.readable.poll(cx))?;
                self.waits = false;
            }
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable.set(self.socket.readable());
                    self.waits = true;
                }
                Err(error) => return Poll::Ready(self.lost(error)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Self {
            socket,
            settings,
            waiting,
            is_probing,
            lost,
            ..
        } = self;
        socket.try_recv(|arrived| {
            // the answer is an empty datagram; other servers echo the probe
            let is_answer = std::mem::take(is_probing) && arrived.bytes == ANSWER;
            if is_answer || (settings.probes && is_probe(arrived.bytes)) {
                return;
            }
            if arrived.bytes.len() > settings.max_datagram {
                *lost = lost.saturating_add(1);
            } else if !arrived.bytes.is_empty() || settings.empty {
                waiting.push(arrived.bytes, arrived.ecn);
            }
        })
    }

    /// Whether a datagram that was lost ends the session.
    fn lost(&self, error: io::Error) -> io::Result<()> {
        let passes = match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => self.settings.ignores_refusals,
            io::ErrorKind::OutOfMemory => true,
            // the network on the way carries only shorter ones, and nobody may split it
            _ => quinn_udp::is_msg_size_err(&error),
        };
        if passes {
            tracing::debug!(peer = %self.peer, %error, "a datagram was lost");
            Ok(())
        } else {
            Err(error)
        }
    }
}

impl Transport for UdpClient {
    fn framing(&self) -> Framing {
        Framing::Datagrams
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        loop {
            if self.lost > 0 {
                return Poll::Ready(Ok(Received::Lost(std::mem::take(&mut self.lost))));
            }
            if let Some((len, _)) = self.waiting.pop(buf) {
                if self.waiting.is_empty() {
                    self.waiting = Units::new();
                }
                return Poll::Ready(Ok(Received::Data(len)));
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let route = Route {
            peer: self.peer,
            local: None,
        };
        loop {
            match ready!(self.outgoing.poll_push(&self.socket, cx, route, bufs)) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => self.lost(error)?,
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(&self.socket, cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.lost(error)?,
            }
        }
    }

    fn max_message(&self) -> usize {
        longest_to(self.peer).min(self.settings.max_datagram)
    }

    #[inline]
    fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// UDP has no close of its own: the peer learns nothing of it.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for UdpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpClient")
            .field("local", &self.socket.local())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
