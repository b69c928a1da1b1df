//! One session for a whole socket, whatever peers there are.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use getty_layers::{
    Address, CloseReason, Connection, Endpoints, Framed, TransportKind, driver::Driver,
};
use tokio::net::{ToSocketAddrs, lookup_host};
use tower::BoxError;

use super::{
    Datagram, Ecn, LONGEST_V6, ProbePolicy, UdpMonitor,
    builder::SocketOptions,
    longest_to,
    outgoing::Outgoing,
    probe::{PROBE, is_probe},
    socket::{Arrived, Route, Socket},
    stats::Counts,
    units::Units,
};
use crate::{
    net::{Listener, bind::cannot_listen},
    session::{MessageTooLong, SessionCodec, Wire},
    transport::{Framing, Received},
};

/// A UDP socket with one session for all of its peers: messages are [`Datagram`]s, which know whom they are from or for.
///
/// A stack for it is written as any other, with the codec for what the datagrams carry: if that makes `In` of bytes and
/// bytes of `Out`, the handler is given `Request<Datagram<In>, Datagram<Out>>`, and answers with a `Datagram<Out>`, which
/// is made of the request's or for a peer by name. Heartbeats, crons and whoever has the session send such, too.
///
/// The session opens at once, whether or not anybody has sent anything. If it closes, by an error of a handler's perhaps,
/// the next datagram opens another on the same socket; one message of one peer can so end the session of all, and
/// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) keeps it from that. There is no idle timeout, no queue a peer
/// and no limit on peers, for none is remembered: where those are wanted, use [`UdpListener`](super::UdpListener).
///
/// ```
/// use bytes::Bytes;
/// use getty::{
///     BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer,
///     codec::Raw,
///     net::{Datagram, UdpEndpoint},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let endpoint = UdpEndpoint::bind("127.0.0.1:0").await?;
/// let address = endpoint.local_addr();
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(Raw::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<Datagram<Bytes>>| async move {
///         let question = request.into_message();
///         Ok::<_, BoxError>(question.reply(question.message().slice(1..)))
///     });
/// # use std::future::IntoFuture;
/// tokio::spawn(getty::serve(endpoint, stack).into_future());
///
/// let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// client.send_to(b"who?", address).await?;
/// let mut answer = [0; 16];
/// let length = client.recv(&mut answer).await?;
/// assert_eq!(&answer[..length], b"ho?");
/// # Ok(())
/// # }
/// ```
///
/// A message without a peer does not compile:
///
/// ```compile_fail
/// # use bytes::Bytes;
/// # use getty::{Session, net::Datagram};
/// # async fn send(session: Session<Datagram<Bytes>>) {
/// session.send(Bytes::from("to whom?")).await;
/// # }
/// ```
pub struct UdpEndpoint {
    socket: Arc<Socket>,
    settings: EndpointSettings,
    counts: Arc<Counts>,
    seat: Arc<Seat>,
}

#[derive(Clone, Copy, Debug)]
struct EndpointSettings {
    max_datagram: usize,
    empty: bool,
    probe: ProbePolicy,
}

/// Whether there is a session, which is for the endpoint to know that makes the next.
#[derive(Default)]
struct Seat {
    taken: AtomicBool,
    /// There was one before.
    used: AtomicBool,
    /// The last session has read something.
    read: AtomicBool,
    free: AtomicWaker,
}

impl UdpEndpoint {
    /// An endpoint at `address`, or at the first of its addresses that can be had.
    ///
    /// # Errors
    ///
    /// The operating system's, with the address: it is in use, or not of this machine.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves no socket behind.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let mut failed = None;
        for address in lookup_host(address).await? {
            match SocketOptions::new().bind(address) {
                Ok(socket) => return Ok(Self::over(socket)),
                Err(error) => failed = Some(cannot_listen(address, error)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "there is no address to bind to",
            )
        }))
    }

    fn over(socket: Socket) -> Self {
        Self {
            socket: Arc::new(socket),
            settings: EndpointSettings {
                max_datagram: LONGEST_V6,
                empty: false,
                probe: ProbePolicy::Deliver,
            },
            counts: Arc::default(),
            seat: Arc::default(),
        }
    }

    /// How long a datagram may be, received or sent, in bytes of payload. Longer ones that are received are dropped and
    /// counted as truncated and as skipped; sending one is an error. At most what the peer's protocol carries: 65,507
    /// bytes over IPv4 and 65,527 over IPv6, which is the default.
    #[must_use]
    pub fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = bytes.min(LONGEST_V6);
        self
    }

    /// Whether datagrams of no bytes are messages for the codec. Default: no, they are dropped and counted.
    #[must_use]
    pub fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// What to do with probes of the Go library's clients. Default: [`ProbePolicy::Deliver`], as datagrams of any other
    /// kind.
    #[must_use]
    pub fn with_probes(mut self, policy: ProbePolicy) -> Self {
        self.settings.probe = policy;
        self
    }

    /// The address that it is bound to, with the port that it got if it asked for any.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local()
    }

    /// What has come in and what became of it, to be asked while the endpoint is served.
    #[must_use]
    pub fn monitor(&self) -> UdpMonitor {
        UdpMonitor(Arc::clone(&self.counts))
    }

    /// Its only connection, to be driven without [`serve`](crate::serve): by a client that speaks to many peers, say,
    /// with [`connect`](crate::connect) and a connector that hands this over.
    #[must_use]
    pub fn into_connection(self) -> Connection<UdpEndpointIo> {
        self.connection()
    }

    fn connection(&self) -> Connection<UdpEndpointIo> {
        self.seat.taken.store(true, SeqCst);
        self.seat.read.store(false, SeqCst);
        let local = Address::Ip(self.socket.local());
        Connection::with_endpoints(
            UdpEndpointIo {
                socket: Arc::clone(&self.socket),
                settings: self.settings,
                counts: Arc::clone(&self.counts),
                seat: Arc::clone(&self.seat),
                waiting: Units::new(),
                lost: 0,
                current: None,
                routes: VecDeque::new(),
                outgoing: Outgoing::new(),
            },
            Endpoints::new(TransportKind::Udp, local, Address::Unknown),
        )
    }
}

/// Over a socket that was made elsewhere, with settings that only it has, and bound there. Panics outside of a tokio
/// runtime.
impl TryFrom<std::net::UdpSocket> for UdpEndpoint {
    type Error = io::Error;

    fn try_from(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        SocketOptions::new()
            .finish(socket.into(), false)
            .map(Self::over)
    }
}

impl Listener for UdpEndpoint {
    type Io = UdpEndpointIo;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<UdpEndpointIo>>> {
        let Self { socket, seat, .. } = self;
        seat.free.register(cx.waker());
        if seat.taken.load(SeqCst) {
            return Poll::Pending;
        }
        while seat.used.load(SeqCst) {
            ready!(socket.get_ref().poll_recv_ready(cx))?;
            if seat.read.load(SeqCst) {
                break;
            }
            // whoever refuses the session does so once for what has come, and not for ever
            ready!(socket.poll_recv(cx, |_| self.counts.ignored.add(1)))?;
            seat.read.store(true, SeqCst);
        }
        seat.used.store(true, SeqCst);
        Poll::Ready(Ok(self.connection()))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Ip(self.socket.local()))
    }
}

impl fmt::Debug for UdpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpEndpoint")
            .field("local_addr", &self.socket.local())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The transport of a [`UdpEndpoint`]'s session.
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
            self.waiting = Units::new();
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
    if let Err(error) = socket.try_send(&route, PROBE, None) {
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
}
