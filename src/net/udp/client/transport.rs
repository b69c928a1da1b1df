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

use crate::{
    net::udp::{
        probe::{PROBE_ANSWER, is_probe},
        socket::{DatagramQueue, Ecn, Route, SendBatch, Socket, max_payload_to},
    },
    transport::{Framing, Received, Transport},
};

/// Settings of a client that its transport needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientSettings {
    /// Maximum length of a datagram, in bytes of payload.
    pub(super) max_datagram: usize,
    /// Empty datagrams are messages.
    pub(super) empty: bool,
    /// The session survives errors about undelivered datagrams.
    pub(super) ignores_refusals: bool,
    /// A probe has been sent, so a datagram that is a probe is not a message.
    pub(super) probes: bool,
}

/// A UDP socket that is connected to one peer, created by
/// [`UdpConnector`](super::UdpConnector). The operating system drops datagrams from other
/// addresses.
pub struct UdpClient {
    socket: Arc<Socket>,
    /// Waits until the socket is readable. Polled only while `is_waiting` is set.
    readable: ReusableBoxFuture<'static, io::Result<()>>,
    is_waiting: bool,
    peer: SocketAddr,
    settings: ClientSettings,
    incoming: DatagramQueue<Ecn>,
    /// The dial waits for the answer to its probe.
    pub(super) is_probing: bool,
    /// Number of lost datagrams that have not been reported to the session yet.
    unreported: u32,
    outgoing: SendBatch,
}

impl UdpClient {
    pub(super) fn new(socket: Socket, peer: SocketAddr, settings: ClientSettings) -> Self {
        let socket = Arc::new(socket);
        Self {
            readable: ReusableBoxFuture::new(socket.readable()),
            socket,
            is_waiting: false,
            peer,
            settings,
            incoming: DatagramQueue::new(),
            is_probing: false,
            unreported: 0,
            outgoing: SendBatch::new(),
        }
    }

    /// Returns a reference to tokio's socket.
    #[must_use]
    pub fn get_ref(&self) -> &tokio::net::UdpSocket {
        self.socket.get_ref()
    }

    /// Reads one batch into the queue.
    ///
    /// # Errors
    ///
    /// Returns the socket's error unless it must be ignored.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_waiting {
                ready!(self.readable.poll(cx))?;
                self.is_waiting = false;
            }
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable.set(self.socket.readable());
                    self.is_waiting = true;
                }
                Err(error) => return Poll::Ready(self.check_error(error)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Self {
            socket,
            settings,
            incoming,
            is_probing,
            unreported,
            ..
        } = self;
        socket.try_recv(|datagram| {
            // the answer is an empty datagram, but some servers echo the probe
            let is_answer = std::mem::take(is_probing) && datagram.bytes == PROBE_ANSWER;
            if is_answer || (settings.probes && is_probe(datagram.bytes)) {
                return;
            }
            if datagram.bytes.len() > settings.max_datagram {
                *unreported = unreported.saturating_add(1);
            } else if !datagram.bytes.is_empty() || settings.empty {
                incoming.push(datagram.bytes, datagram.ecn);
            }
        })
    }

    /// Returns the error of a lost datagram if it must close the session.
    fn check_error(&self, error: io::Error) -> io::Result<()> {
        let is_ignored = match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => self.settings.ignores_refusals,
            io::ErrorKind::OutOfMemory => true,
            // the path carries shorter datagrams only, and fragments are off
            _ => quinn_udp::is_msg_size_err(&error),
        };
        if is_ignored {
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
            if self.unreported > 0 {
                return Poll::Ready(Ok(Received::Lost(std::mem::take(&mut self.unreported))));
            }
            if let Some((len, _)) = self.incoming.pop(buf) {
                if self.incoming.is_empty() {
                    self.incoming = DatagramQueue::new();
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
                Err(error) => self.check_error(error)?,
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(&self.socket, cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.check_error(error)?,
            }
        }
    }

    fn max_message(&self) -> usize {
        max_payload_to(self.peer).min(self.settings.max_datagram)
    }

    #[inline]
    fn has_more(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Does nothing. UDP has no close, so the peer is not notified.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for UdpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpClient")
            .field("local", &self.socket.local_addr())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
