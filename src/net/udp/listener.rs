//! A session for each peer of a socket.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{Address, Connection};
use tokio::net::ToSocketAddrs;

use super::{
    builder::UdpListenerBuilder,
    hub::Hub,
    peer::UdpPeer,
    reader::{Port, Reader},
    settings::Settings,
    socket::Socket,
    stats::UdpMonitor,
};
use crate::net::Listener;

/// Accepts UDP peers: a session for each address that datagrams come from.
///
/// On a wildcard address such as `0.0.0.0`, a peer that sends to several local addresses has a
/// session for each address. Every datagram is therefore answered from the address that it was sent
/// to, where the operating system reports that address.
///
/// The first datagram of an address makes its session, and is its first message. The session ends when it is closed,
/// when its peer has been silent for the [idle timeout](UdpListenerBuilder::with_idle_timeout), 60 s by default, or to
/// make room for another. A later datagram of the same address then opens a new one; what comes while a session still
/// closes is lost with it. The new one may open before the close callbacks of the old have run, and before the handlers of
/// one that made room have finished: what an application keeps of its peers goes by the session's
/// [`id`](crate::ConnectionHandle::id), not by the address.
///
/// The sockets are read by tasks of the listener's own, whether or not connections are accepted: each peer has a bounded
/// queue, and so have the peers that wait to be accepted. The tasks end when the listener and its sessions are gone.
///
/// Anybody can write any address into a datagram. What that means for a server, and which settings bound it, is in
/// SECURITY.md.
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
    hub: Arc<Hub>,
    ports: Vec<Arc<Port>>,
}

impl UdpListener {
    /// Listens on `address`, or on the first of its addresses that can be had, with the defaults of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// As [`UdpListenerBuilder::bind`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves no socket behind.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::builder().bind(address).await
    }

    /// Settings of a listener, to be changed and then [bound](UdpListenerBuilder::bind).
    pub const fn builder() -> UdpListenerBuilder {
        UdpListenerBuilder::new()
    }

    pub(super) fn start(sockets: Vec<Socket>, settings: Settings) -> Self {
        let hub = Arc::new(Hub::new(settings));
        let ports: Vec<_> = sockets
            .into_iter()
            .map(|socket| Arc::new(Port::new(socket, Arc::clone(&hub))))
            .collect();
        for port in &ports {
            tokio::spawn(Reader::new(Arc::clone(port)));
        }
        Self { hub, ports }
    }

    /// The address that it listens on, with the port that it got if it asked for any.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.ports.first() {
            Some(port) => Ok(port.socket().local()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// What has come in and what became of it, to be asked while the listener serves.
    #[must_use]
    pub fn monitor(&self) -> UdpMonitor {
        UdpMonitor(Arc::clone(self.hub.counts()))
    }
}

impl Listener for UdpListener {
    type Io = UdpPeer;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<UdpPeer>>> {
        self.hub.poll_accept(cx).map(Ok)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(Address::Ip)
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        self.hub.close();
        self.ports.iter().for_each(|port| port.wake_reader());
    }
}

impl fmt::Debug for UdpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpListener")
            .field("local_addr", &self.local_addr().ok())
            .field("sockets", &self.ports.len())
            .field("peers", &self.hub.peers())
            .field("settings", self.hub.settings())
            .finish()
    }
}
