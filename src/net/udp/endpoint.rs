//! One session for a whole socket, whatever peers there are.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::net::{ToSocketAddrs, lookup_host};

use super::{
    LONGEST_V6, ProbePolicy, UdpEndpointIo, UdpMonitor, builder::SocketOptions, socket::Socket,
    stats::Counts,
};
use crate::net::{Listener, bind::cannot_listen};

/// A UDP socket with one session for all of its peers: messages are [`Datagram`](super::Datagram)s, which know whom they are from or for.
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
/// # use getty::{Session, codec::Bytes, net::Datagram};
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
pub(super) struct EndpointSettings {
    pub(super) max_datagram: usize,
    pub(super) empty: bool,
    pub(super) probe: ProbePolicy,
}

/// Whether there is a session, which is for the endpoint to know that makes the next.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) taken: AtomicBool,
    /// There was one before.
    used: AtomicBool,
    /// The last session has read something.
    pub(super) read: AtomicBool,
    pub(super) free: AtomicWaker,
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
            UdpEndpointIo::new(
                Arc::clone(&self.socket),
                self.settings,
                Arc::clone(&self.counts),
                Arc::clone(&self.seat),
            ),
            Endpoints::new(TransportKind::Udp, local, Address::Unknown),
        )
    }
}

/// Over a socket that was made elsewhere, with settings that only it has, such as the sizes of its buffers, and bound there. Panics outside of a tokio
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
