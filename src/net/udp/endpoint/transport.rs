//! The transport of an endpoint's session, which keeps the peer of each datagram.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::{CloseReason, SessionIo, driver::Driver, sync::Signal};
use tower::BoxError;

use super::datagram::Datagram;
use crate::{
    net::udp::{
        probe::{PROBE_ANSWER, ProbePolicy, is_probe},
        socket::{DatagramQueue, Ecn, IncomingDatagram, Route, SendBatch, Socket, max_payload_to},
        stats::Counters,
    },
    session::{FramedTransport, MessageTooLong, SessionCodec},
    transport::{Framing, Received, Transport},
};

/// Maximum capacity of an empty queue, in bytes. A larger one is freed. A smaller one is kept,
/// so that a datagram allocates nothing. A socket has one queue.
const MAX_KEPT_CAPACITY: usize = 256 * 1024;

/// Flag of the signal from a session's transport to the endpoint: the transport was dropped.
pub(super) const ENDED: u8 = 1;
/// Flag that is raised with [`ENDED`] if the session has read from the socket.
pub(super) const HAS_READ: u8 = 2;

/// Settings of an endpoint that its transport needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointSettings {
    /// Maximum length of a datagram, in bytes of payload.
    pub(super) max_datagram: usize,
    /// Empty datagrams are messages.
    pub(super) empty: bool,
    pub(super) probe: ProbePolicy,
}

/// Transport of the session of a [`UdpEndpoint`](super::UdpEndpoint).
///
/// Datagrams that the operating system refuses to send are dropped and counted, as if the
/// network had lost them. An error about a datagram never closes the session.
pub struct UdpEndpointIo(EndpointTransport);

impl UdpEndpointIo {
    pub(super) const fn new(transport: EndpointTransport) -> Self {
        Self(transport)
    }
}

impl fmt::Debug for UdpEndpointIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The socket, with the peers of the datagrams that wait.
pub struct EndpointTransport {
    socket: Arc<Socket>,
    settings: EndpointSettings,
    counters: Arc<Counters>,
    /// Raised when this transport is dropped.
    ended: Arc<Signal>,
    /// This session has read from the socket.
    has_read: bool,
    incoming: DatagramQueue<(Route, Ecn)>,
    /// Number of lost datagrams that have not been reported to the session yet.
    unreported: u32,
    /// Source of the datagram that is decoded next.
    current: Option<(Route, Ecn)>,
    /// Destinations of the encoded datagrams that `outgoing` has not accepted yet.
    routes: VecDeque<Route>,
    outgoing: SendBatch,
}

impl EndpointTransport {
    pub(super) fn new(
        socket: Arc<Socket>,
        settings: EndpointSettings,
        counters: Arc<Counters>,
        ended: Arc<Signal>,
    ) -> Self {
        Self {
            socket,
            settings,
            counters,
            ended,
            has_read: false,
            incoming: DatagramQueue::new(),
            unreported: 0,
            current: None,
            routes: VecDeque::new(),
            outgoing: SendBatch::new(),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            socket,
            settings,
            counters,
            incoming,
            unreported,
            ..
        } = self;
        let mut received = 0;
        let filled = socket.poll_recv(cx, |datagram| {
            received += 1;
            if socket.is_unanswerable(&datagram) {
                counters.ignored.add(1);
            } else if settings.probe != ProbePolicy::Deliver && is_probe(datagram.bytes) {
                counters.probes.add(1);
                if settings.probe == ProbePolicy::Answer {
                    answer_probe(socket, counters, &datagram);
                }
            } else if datagram.bytes.len() > settings.max_datagram {
                counters.truncated.add(1);
                *unreported = unreported.saturating_add(1);
            } else if datagram.bytes.is_empty() && !settings.empty {
                counters.empty.add(1);
            } else {
                let route = Route {
                    peer: datagram.peer,
                    local: datagram.local,
                };
                incoming.push(datagram.bytes, (route, datagram.ecn));
            }
        });
        if received > 0 {
            self.has_read = true;
            counters.received.add(received);
            counters.delivered.add(incoming.len() as u64);
        }
        match ready!(filled) {
            // some operating systems report this about a datagram that was sent
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.record_unsent(&error);
                Poll::Ready(Ok(()))
            }
            filled => Poll::Ready(filled.map(drop)),
        }
    }

    fn record_unsent(&self, error: &io::Error) {
        tracing::debug!(%error, "a datagram was not sent");
        self.counters.unsent.add(1);
    }

    /// Returns the route in the form that the socket needs.
    fn route(&self, mut route: Route) -> io::Result<Route> {
        route.local = self.socket.reply_source(route.local);
        match (self.socket.local_addr(), route.peer) {
            (SocketAddr::V6(_), SocketAddr::V4(peer)) => {
                // an IPv6 socket reaches IPv4 by mapped addresses
                route.peer = (peer.ip().to_ipv6_mapped(), peer.port()).into();
                route.local = route.local.map(|local| match local {
                    IpAddr::V4(local) => local.to_ipv6_mapped().into(),
                    IpAddr::V6(_) => local,
                });
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an IPv4 endpoint cannot send to an IPv6 peer",
                ));
            }
            _ => {}
        }
        Ok(route)
    }
}

fn answer_probe(socket: &Socket, counters: &Counters, datagram: &IncomingDatagram<'_>) {
    let route = Route {
        peer: datagram.peer,
        local: socket.reply_source(datagram.local),
    };
    if let Err(error) = socket.try_send(&route, PROBE_ANSWER, None) {
        tracing::debug!(peer = %datagram.peer, %error, "a probe was not answered");
        counters.unsent.add(1);
    }
}

impl Drop for EndpointTransport {
    fn drop(&mut self) {
        let has_read = if self.has_read { HAS_READ } else { 0 };
        self.ended.raise(ENDED | has_read);
    }
}

impl fmt::Debug for EndpointTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpEndpointIo")
            .field("local", &self.socket.local_addr())
            .finish_non_exhaustive()
    }
}

impl Transport for EndpointTransport {
    #[inline]
    fn framing(&self) -> Framing {
        Framing::Datagrams
    }

    #[inline]
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
            if let Some((len, from)) = self.incoming.pop(buf) {
                self.current = Some(from);
                return Poll::Ready(Ok(Received::Data(len)));
            }
            self.incoming.shrink(MAX_KEPT_CAPACITY);
            ready!(self.poll_fill(cx))?;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(route) = self.routes.front().copied() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            match ready!(self.outgoing.poll_push(&self.socket, cx, route, bufs)) {
                Ok(len) => {
                    self.routes.pop_front();
                    return Poll::Ready(Ok(len));
                }
                Err(error) => self.record_unsent(&error),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(&self.socket, cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.record_unsent(&error),
            }
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Does nothing. UDP has no close, so the peers are not notified.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Passes each datagram to the codec separately, and keeps its peer (design.md: Why do the
/// endpoint's datagrams contain their peer?).
impl<C, M> FramedTransport for SessionIo<UdpEndpointIo, C, Datagram<M>>
where
    C: SessionCodec<M>,
    M: Send + 'static,
{
    type In = Datagram<C::Item>;
    type Io = EndpointTransport;

    #[inline]
    fn transport(&self) -> &EndpointTransport {
        &Self::transport(self).0
    }

    #[inline]
    fn transport_mut(&mut self) -> &mut EndpointTransport {
        &mut self.split_mut().0.0
    }

    #[inline]
    fn driver(&mut self) -> &mut Driver<Datagram<M>> {
        self.split_mut().2
    }

    fn max_frame(&self) -> usize {
        Self::max_frame(self)
    }

    fn apply_max_frame(&mut self) {
        Self::apply_max_frame(self);
    }

    fn decode(
        &mut self,
        buf: &mut BytesMut,
        _: bool,
    ) -> Result<Option<Datagram<C::Item>>, BoxError> {
        let (UdpEndpointIo(io), codec, _) = self.split_mut();
        let Some((route, ecn)) = io.current else {
            return Ok(None);
        };
        let message = codec.decode_eof(buf).map_err(Into::into)?;
        Ok(message.map(|message| Datagram::received(route, ecn, message)))
    }

    fn encode(&mut self, message: Datagram<M>, buf: &mut BytesMut) -> Result<(), BoxError> {
        let (UdpEndpointIo(io), codec, _) = self.split_mut();
        let (route, message) = message.into_parts();
        let route = io.route(route)?;
        let limit = max_payload_to(route.peer).min(io.settings.max_datagram);
        let before = buf.len();
        codec.encode(message, buf).map_err(Into::into)?;
        let bytes = buf.len() - before;
        if bytes > limit {
            return Err(MessageTooLong::boxed(bytes, limit));
        }
        io.routes.push_back(route);
        Ok(())
    }

    fn takes_raw(&self) -> Result<(), BoxError> {
        Err("raw bytes have no peer; send a `Datagram`".into())
    }

    fn discard(self) {
        Self::discard(self);
    }
}
