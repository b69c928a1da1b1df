//! The transport of an endpoint's session, and how its datagrams keep their peers.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use getty_core::{CloseReason, Framed, driver::Driver};
use tower::BoxError;

use super::{
    Datagram, Ecn, ProbePolicy,
    endpoint::{EndpointSettings, Seat},
    longest_to,
    outgoing::Outgoing,
    probe::{ANSWER, is_probe},
    socket::{Arrived, Route, Socket},
    stats::Counts,
    units::Units,
};
use crate::{
    session::{MessageTooLong, SessionCodec, Wire},
    transport::{Framing, Received},
};

/// An empty queue of datagrams that takes more than this is freed; there is one a socket. Smaller ones are kept, so that a
/// datagram allocates nothing.
const KEPT_WAITING: usize = 256 * 1024;

/// The transport of a [`UdpEndpoint`](super::UdpEndpoint)'s session.
///
/// What the operating system refuses to send is dropped and counted, as if the network had lost it: no error of a
/// datagram ends the session.
pub struct UdpEndpointIo {
    socket: Arc<Socket>,
    settings: EndpointSettings,
    counts: Arc<Counts>,
    seat: Arc<Seat>,
    waiting: Units<(Route, Ecn)>,
    /// How many datagrams the session has not been told that it lost.
    lost: u32,
    /// Whom the datagram that is decoded next is from.
    current: Option<(Route, Ecn)>,
    /// Where what is encoded and not yet taken goes.
    routes: VecDeque<Route>,
    outgoing: Outgoing,
}

impl UdpEndpointIo {
    pub(super) fn new(
        socket: Arc<Socket>,
        settings: EndpointSettings,
        counts: Arc<Counts>,
        seat: Arc<Seat>,
    ) -> Self {
        Self {
            socket,
            settings,
            counts,
            seat,
            waiting: Units::new(),
            lost: 0,
            current: None,
            routes: VecDeque::new(),
            outgoing: Outgoing::new(),
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<Received>> {
        loop {
            if self.lost > 0 {
                return Poll::Ready(Ok(Received::Lost(std::mem::take(&mut self.lost))));
            }
            if let Some((len, from)) = self.waiting.pop(buf) {
                self.current = Some(from);
                return Poll::Ready(Ok(Received::Data(len)));
            }
            self.waiting.shrink(KEPT_WAITING);
            ready!(self.poll_fill(cx))?;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            socket,
            settings,
            counts,
            waiting,
            lost,
            ..
        } = self;
        let mut received = 0;
        let filled = socket.poll_recv(cx, |arrived| {
            received += 1;
            if socket.is_unanswerable(&arrived) {
                counts.ignored.add(1);
            } else if settings.probe != ProbePolicy::Deliver && is_probe(arrived.bytes) {
                counts.probes.add(1);
                if settings.probe == ProbePolicy::Answer {
                    answer_probe(socket, counts, &arrived);
                }
            } else if arrived.bytes.len() > settings.max_datagram {
                counts.truncated.add(1);
                *lost = lost.saturating_add(1);
            } else if arrived.bytes.is_empty() && !settings.empty {
                counts.empty.add(1);
            } else {
                let route = Route {
                    peer: arrived.peer,
                    local: arrived.local,
                };
                waiting.push(arrived.bytes, (route, arrived.ecn));
            }
        });
        if received > 0 {
            self.seat.read.store(true, SeqCst);
            counts.received.add(received);
            counts.delivered.add(waiting.len() as u64);
        }
        match ready!(filled) {
            // some operating systems say so of a datagram that we have sent
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.unsent(&error);
                Poll::Ready(Ok(()))
            }
            filled => Poll::Ready(filled.map(drop)),
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
                Err(error) => self.unsent(&error),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(&self.socket, cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.unsent(&error),
            }
        }
    }

    fn unsent(&self, error: &io::Error) {
        tracing::debug!(%error, "a datagram was not sent");
        self.counts.unsent.add(1);
    }

    /// The route as the socket needs it.
    fn route(&self, mut route: Route) -> io::Result<Route> {
        route.local = self.socket.answer_from(route.local);
        match (self.socket.local(), route.peer) {
            (SocketAddr::V6(_), SocketAddr::V4(peer)) => {
                // a socket of IPv6 reaches IPv4 by its mapped addresses
                route.peer = (peer.ip().to_ipv6_mapped(), peer.port()).into();
                route.local = route.local.map(|local| match local {
                    IpAddr::V4(local) => local.to_ipv6_mapped().into(),
                    IpAddr::V6(_) => local,
                });
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an endpoint of IPv4 has no way to a peer of IPv6",
                ));
            }
            _ => {}
        }
        Ok(route)
    }
}

fn answer_probe(socket: &Socket, counts: &Counts, arrived: &Arrived<'_>) {
    let route = Route {
        peer: arrived.peer,
        local: socket.answer_from(arrived.local),
    };
    if let Err(error) = socket.try_send(&route, ANSWER, None) {
        tracing::debug!(peer = %arrived.peer, %error, "a probe was not answered");
        counts.unsent.add(1);
    }
}

impl Drop for UdpEndpointIo {
    fn drop(&mut self) {
        self.seat.taken.store(false, SeqCst);
        self.seat.free.wake();
    }
}

impl fmt::Debug for UdpEndpointIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpEndpointIo")
            .field("local", &self.socket.local())
            .finish_non_exhaustive()
    }
}

/// Each datagram goes through the codec by itself, and keeps its peer on the way.
impl<C, M> Wire for Framed<UdpEndpointIo, C, Datagram<M>>
where
    C: SessionCodec<M>,
    M: Send + 'static,
{
    type In = Datagram<C::Item>;

    #[inline]
    fn driver(&mut self) -> &mut Driver<Datagram<M>> {
        self.split_mut().2
    }

    fn max_frame(&self) -> usize {
        Self::max_frame(self)
    }

    #[inline]
    fn framing(&self) -> Framing {
        Framing::Datagrams
    }

    fn decode(
        &mut self,
        buf: &mut BytesMut,
        _: bool,
    ) -> Result<Option<Datagram<C::Item>>, BoxError> {
        let (io, codec, _) = self.split_mut();
        let Some((route, ecn)) = io.current else {
            return Ok(None);
        };
        let message = codec.decode_eof(buf).map_err(Into::into)?;
        Ok(message.map(|message| Datagram::received(route, ecn, message)))
    }

    fn encode(&mut self, message: Datagram<M>, buf: &mut BytesMut) -> Result<(), BoxError> {
        let (io, codec, _) = self.split_mut();
        let (route, message) = message.into_parts();
        let route = io.route(route)?;
        let limit = longest_to(route.peer).min(io.settings.max_datagram);
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
        Err("raw bytes name no peer for a datagram; send a `Datagram`".into())
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        self.split_mut().0.poll_recv(cx, buf)
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.split_mut().0.poll_send(cx, bufs)
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split_mut().0.poll_flush(cx)
    }

    #[inline]
    fn has_more(&self) -> bool {
        !self.transport().waiting.is_empty()
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// UDP has no close of its own: no peer learns of it.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn discard(self) {
        Self::discard(self);
    }
}
