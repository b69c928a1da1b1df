//! The listener that accepts the peers of its sockets.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection, sync::AcceptQueue};
use tokio::time::Instant;

use super::{
    batch::PendingAccept, listener_socket::ListenerSocket, reader::Reader, settings::Settings,
    shared::ListenerShared, transport::UdpPeer,
};
use crate::net::{
    listener::Listener,
    udp::{socket::Socket, stats::UdpMonitor},
};

/// Accepts UDP peers, with a session for each address that sends datagrams.
///
/// On a wildcard address such as `0.0.0.0`, a peer that sends to several local addresses has a
/// session for each address. Every datagram is therefore answered from the address that it was
/// sent to, where the operating system reports that address.
///
/// The first datagram of an address opens its session and is its first message. The session
/// ends when it is closed, when its peer has been silent for the [idle timeout], 60 s by
/// default, or when it is evicted for another peer. A later datagram of the same address opens
/// a new session. Datagrams that arrive while a session is closing are lost with it.
///
/// The new session may open before the close callbacks of the old one have run. After an
/// eviction it may open before the handlers of the evicted session have finished. Applications
/// should therefore identify a peer by the session's [`id`](crate::ConnectionHandle::id), not
/// by its address.
///
/// The listener's own tasks read the sockets, even while no task accepts connections. Each peer
/// has a bounded queue, and the number of peers that wait to be accepted is bounded too. The
/// tasks end when the listener and its sessions are gone.
///
/// A `std::net::UdpSocket` that is bound already is converted with `UdpListener::try_from`, or
/// with [`UdpListenerBuilder::listen_on`](super::UdpListenerBuilder::listen_on).
///
/// The source address of a datagram can be forged. SECURITY.md describes the consequences for a
/// server, and the settings that bound them.
///
/// [idle timeout]: super::UdpListenerBuilder::with_idle_timeout
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
/// use getty::{codec::{Bytes, Raw}, net::UdpListener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let echo = ServiceBuilder::new()
///     .layer(CodecLayer::new(Raw::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<Bytes>| async move { Ok::<_, BoxError>(request.into_message()) });
/// let listener = UdpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// tokio::spawn(getty::serve(listener, echo).into_future());
/// # use std::future::IntoFuture;
///
/// let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// client.send_to(b"hello", address).await?;
/// let mut answer = [0; 16];
/// let (length, from) = client.recv_from(&mut answer).await?;
/// assert_eq!((&answer[..length], from), (&b"hello"[..], address));
/// # Ok(())
/// # }
/// ```
pub struct UdpListener {
    shared: Arc<ListenerShared>,
    accept_queue: Arc<AcceptQueue<PendingAccept>>,
    /// Never empty.
    sockets: Vec<Arc<ListenerSocket>>,
}

impl UdpListener {
    /// Starts a reader for each socket. There must be at least one socket.
    pub(super) fn start(sockets: Vec<Socket>, settings: Settings) -> Self {
        let shared = Arc::new(ListenerShared::new(settings));
        let accept_queue = Arc::new(AcceptQueue::new());
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|socket| Arc::new(ListenerSocket::new(socket, Arc::clone(&shared))))
            .collect();
        for socket in &sockets {
            tokio::spawn(Reader::new(Arc::clone(socket), Arc::clone(&accept_queue)));
        }
        Self {
            shared,
            accept_queue,
            sockets,
        }
    }

    /// Returns the local address, with the assigned port if port 0 was requested.
    ///
    /// # Errors
    ///
    /// Never fails at present.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.sockets.first() {
            Some(socket) => Ok(socket.socket().local_addr()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Returns access to the counters of the listener, which can be read while it serves.
    #[must_use]
    pub fn monitor(&self) -> UdpMonitor {
        UdpMonitor(Arc::clone(self.shared.counters()))
    }
}

impl Listener for UdpListener {
    type Io = UdpPeer;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<UdpPeer>>> {
        loop {
            let pending = ready!(self.accept_queue.poll_pop(cx));
            if !pending.is_late(self.shared.settings().accept_timeout, Instant::now()) {
                return Poll::Ready(Ok(pending.connection));
            }
            self.shared.counters().unaccepted.add(1);
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(Address::Ip)
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        // closed before the queue drops its connections, whose drop wakes a reader without peers
        self.sockets.iter().for_each(|socket| socket.close());
        self.accept_queue.close();
    }
}

impl fmt::Debug for UdpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpListener")
            .field("local_addr", &self.local_addr().ok())
            .field("sockets", &self.sockets.len())
            .field("peers", &self.shared.peers())
            .field("settings", self.shared.settings())
            .finish()
    }
}
