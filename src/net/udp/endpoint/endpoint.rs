//! The endpoint: a listener whose only connection is its socket.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use getty_core::{Address, Connection, Endpoints, TransportKind, sync::Signal};
use tokio::net::ToSocketAddrs;

use super::transport::{ENDED, EndpointSettings, EndpointTransport, HAS_READ, UdpEndpointIo};
use crate::net::{
    bind::bind_first,
    listener::Listener,
    udp::{
        probe::ProbePolicy,
        socket::{MAX_PAYLOAD, Socket, SocketOptions, at_most_max_payload},
        stats::{Counters, UdpMonitor},
    },
};

/// A UDP socket with one session for all of its peers. Messages are
/// [`Datagram`](super::Datagram)s, which know their peer.
///
/// Its stack is built like any other, with the codec for the payload of datagrams. If the codec
/// decodes `In` and encodes `Out`, the handler receives `Request<Datagram<In>, Datagram<Out>>`
/// and returns a `Datagram<Out>`, created from the request's datagram or for a given peer.
/// Heartbeats, interval messages and holders of the session send such datagrams as well.
///
/// The session opens at once, before the first datagram. If it closes, for example because a
/// handler failed, the next datagram opens another session on the same socket. A message of one
/// peer can therefore end the session of all peers, which
/// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) prevents. The endpoint does not track
/// peers: it has no idle timeout, no queue per peer, and no limit on peers. Where those are
/// needed, use [`UdpListener`](crate::net::UdpListener).
///
/// ```
/// use getty::{
///     BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer,
///     codec::{Bytes, Raw},
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
///         let datagram = request.into_message();
///         Ok::<_, BoxError>(datagram.reply(datagram.message().slice(1..)))
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
/// # use getty::{Session, codec::Bytes, net::Datagram};
/// # async fn send(session: Session<Datagram<Bytes>>) {
/// session.send(Bytes::from("to whom?")).await;
/// # }
/// ```
pub struct UdpEndpoint {
    socket: Arc<Socket>,
    settings: EndpointSettings,
    counters: Arc<Counters>,
    session: SessionState,
    /// Raised when the session ends.
    ended: Arc<Signal>,
    /// Waker of the accepting task, as registered with `ended`.
    waker: Option<Waker>,
}

/// State of the endpoint's only session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionState {
    /// No session was accepted yet.
    New,
    Open,
    Ended {
        /// The session, or the endpoint after it, has read from the socket.
        has_read: bool,
    },
}

impl UdpEndpoint {
    /// Creates an endpoint at the first address of `address` that can be bound.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot be resolved. Otherwise returns the error of the last address, which
    /// it names: the address is in use or does not belong to this machine.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no socket behind.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let socket = bind_first(address, |address| SocketOptions::new().bind(address)).await?;
        Ok(Self::new(socket))
    }

    fn new(socket: Socket) -> Self {
        Self {
            socket: Arc::new(socket),
            settings: EndpointSettings {
                max_datagram: MAX_PAYLOAD,
                empty: false,
                probe: ProbePolicy::Deliver,
            },
            counters: Arc::default(),
            session: SessionState::New,
            ended: Arc::new(Signal::new()),
            waker: None,
        }
    }

    /// Sets the maximum length of a datagram, received or sent, in bytes of payload. The default
    /// and the upper limit is the maximum of the peer's protocol: 65,507 bytes over IPv4 and 65,527
    /// bytes over IPv6.
    ///
    /// A longer datagram that is received is dropped and counted as truncated and as skipped.
    /// Sending one fails.
    #[must_use]
    pub fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = at_most_max_payload(bytes);
        self
    }

    /// Sets whether empty datagrams are messages for the codec. The default is `false`: they are
    /// dropped and counted.
    #[must_use]
    pub fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// Sets the treatment of probes from clients of the Go library getty. The default is
    /// [`ProbePolicy::Deliver`], which treats them as any other datagram.
    #[must_use]
    pub fn with_probes(mut self, policy: ProbePolicy) -> Self {
        self.settings.probe = policy;
        self
    }

    /// Returns the local address, with the assigned port if port 0 was requested.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Returns access to the counters of the endpoint, which can be read while it is served.
    #[must_use]
    pub fn monitor(&self) -> UdpMonitor {
        UdpMonitor(Arc::clone(&self.counters))
    }

    /// Returns the endpoint's only connection, to be driven without [`serve`](crate::serve()).
    ///
    /// A client of many peers can use it, with [`connect`](crate::connect()) and a connector that
    /// returns this connection.
    #[must_use]
    pub fn into_connection(mut self) -> Connection<UdpEndpointIo> {
        self.connection()
    }

    fn connection(&mut self) -> Connection<UdpEndpointIo> {
        self.session = SessionState::Open;
        let local = Address::Ip(self.socket.local_addr());
        Connection::with_endpoints(
            UdpEndpointIo::new(EndpointTransport::new(
                Arc::clone(&self.socket),
                self.settings,
                Arc::clone(&self.counters),
                Arc::clone(&self.ended),
            )),
            Endpoints::new(TransportKind::Udp, local, Address::Unknown),
        )
    }

    /// Waits until the next session can open: until the last one has ended and a datagram has
    /// arrived.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session == SessionState::Open {
            self.ended.register(&mut self.waker, cx);
            let flags = self.ended.take();
            if flags & ENDED == 0 {
                return Poll::Pending;
            }
            self.session = SessionState::Ended {
                has_read: flags & HAS_READ != 0,
            };
        }
        while let SessionState::Ended { has_read } = &mut self.session {
            ready!(self.socket.get_ref().poll_recv_ready(cx))?;
            if *has_read {
                break;
            }
            // the stack refused the last session: its datagrams are dropped so that it is refused
            // once for them and not again without end
            ready!(self.socket.poll_recv(cx, |_| self.counters.ignored.add(1)))?;
            *has_read = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// Creates an endpoint over a bound socket, which may have options that this type cannot set,
/// such as its buffer sizes. Panics if called outside of a tokio runtime.
impl TryFrom<std::net::UdpSocket> for UdpEndpoint {
    type Error = io::Error;

    fn try_from(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        SocketOptions::new().wrap(socket.into()).map(Self::new)
    }
}

impl Listener for UdpEndpoint {
    type Io = UdpEndpointIo;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<UdpEndpointIo>>> {
        ready!(self.poll_free(cx))?;
        Poll::Ready(Ok(self.connection()))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Ip(self.socket.local_addr()))
    }
}

impl fmt::Debug for UdpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpEndpoint")
            .field("local_addr", &self.socket.local_addr())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
