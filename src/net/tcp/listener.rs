//! Accepting TCP connections.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};

use super::{
    connection,
    options::{INHERITS, Keepalive, StreamOptions},
    resets_self_connect,
};
use crate::net::{
    Listener,
    bind::{BACKLOG, cannot_listen},
};

/// tokio's listener, whose connections have nodelay set; [`getty::net::TcpListener`](TcpListener) has more settings.
impl Listener for tokio::net::TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        poll_accept(self, Some(StreamOptions::new()), cx)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(Address::Ip)
    }
}

/// Accepts TCP connections, with the settings that a server wants.
///
/// [`bind`](Self::bind) has the defaults, [`builder`](Self::builder) the settings. A listener made of tokio's or the
/// standard library's keeps that one's own settings, and sets nodelay on what it accepts.
///
/// A connection that comes over IPv4 to a listener of IPv6 has a peer address of the form `::ffff:192.0.2.1`.
///
/// ```
/// use getty::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?; // port 0: any free one
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TcpListener {
    inner: tokio::net::TcpListener,
    options: StreamOptions,
}

impl TcpListener {
    /// Listens on `address`, or on the first of its addresses that can be had, with the defaults of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// As [`TcpListenerBuilder::bind`].
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

    /// Settings of a listener, to be changed and then [bound](TcpListenerBuilder::bind).
    pub const fn builder() -> TcpListenerBuilder {
        TcpListenerBuilder {
            backlog: BACKLOG,
            // on Windows the option would let anybody take the port over
            reuse_address: cfg!(unix),
            reuse_port: false,
            only_v6: None,
            options: StreamOptions::new(),
        }
    }

    /// The address that it listens on, with the port that it got if it asked for any.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// tokio's listener.
    pub const fn get_ref(&self) -> &tokio::net::TcpListener {
        &self.inner
    }

    /// tokio's listener, without the settings that are of accepted connections.
    pub fn into_inner(self) -> tokio::net::TcpListener {
        self.inner
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let options = (!INHERITS).then_some(self.options);
        poll_accept(&self.inner, options, cx)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(Address::Ip)
    }
}

impl From<tokio::net::TcpListener> for TcpListener {
    fn from(inner: tokio::net::TcpListener) -> Self {
        let options = StreamOptions::new();
        options.apply_to_listener(&inner);
        Self { inner, options }
    }
}

/// For a listener that was handed over, by a service manager for example. Panics outside of a tokio runtime.
impl TryFrom<std::net::TcpListener> for TcpListener {
    type Error = io::Error;

    fn try_from(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener).map(Self::from)
    }
}

fn poll_accept(
    listener: &tokio::net::TcpListener,
    options: Option<StreamOptions>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Connection<TcpStream>>> {
    loop {
        let (stream, peer) = ready!(listener.poll_accept(cx))?;
        if let Some(connection) = accepted(stream, peer, options) {
            return Poll::Ready(Ok(connection));
        }
    }
}

/// Returns the connection over an accepted socket, or `None` if the socket is connected to itself.
/// Without `options` the socket has inherited the settings.
fn accepted(
    stream: TcpStream,
    peer: SocketAddr,
    options: Option<StreamOptions>,
) -> Option<Connection<TcpStream>> {
    let local = stream.local_addr();
    if resets_self_connect(&stream, &local, peer) {
        tracing::warn!(%peer, "an accepted socket is connected to itself; it is reset");
        return None;
    }
    if let Some(options) = options {
        options.apply_to_accepted(&stream);
    }
    Some(connection(stream, local, peer))
}

/// The settings of a [`TcpListener`]; made by [`TcpListener::builder`].
///
/// Settings of sockets are those of the accepted connections, each for itself.
///
/// ```
/// use getty::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = TcpListener::builder()
///     .with_backlog(4096)
///     .with_recv_buffer_size(64 * 1024)
///     .bind("127.0.0.1:0")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder listens once it is bound"]
pub struct TcpListenerBuilder {
    backlog: u32,
    reuse_address: bool,
    reuse_port: bool,
    only_v6: Option<bool>,
    options: StreamOptions,
}

impl TcpListenerBuilder {
    /// How many connections the operating system completes and keeps until they are accepted; what comes beyond that
    /// waits outside, or fails there. Linux caps it at `net.core.somaxconn`. Default: 1024.
    pub const fn with_backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Whether small writes leave at once (`TCP_NODELAY`) and do not wait for the peer to acknowledge earlier ones.
    /// Default: on.
    pub const fn with_nodelay(mut self, on: bool) -> Self {
        self.options.nodelay = on;
        self
    }

    /// Has the operating system look after idle connections. Default: off.
    pub const fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        self.options.keepalive = Some(keepalive);
        self
    }

    /// Whether a port can be listened on while connections of a former listener still fade away (`SO_REUSEADDR`), as
    /// they do after a restart. Default: on, but off on Windows, where the option means something else.
    pub const fn with_reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// Whether several listeners, of this user, may share the port, if all of them say so (`SO_REUSEPORT`). Linux
    /// spreads connections over them, and what waits in the backlog of one that closes is lost. Default: off.
    pub const fn with_reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Whether a listener of an IPv6 address leaves IPv4 alone (`IPV6_V6ONLY`); without it `[::]` may take connections
    /// of both. No effect on IPv4 addresses. Default: the operating system's, on Linux off.
    pub const fn with_only_v6(mut self, on: bool) -> Self {
        self.only_v6 = Some(on);
        self
    }

    /// How many bytes the operating system keeps that are written and not yet acknowledged (`SO_SNDBUF`). Linux doubles
    /// the number, for its own use, and then no longer tunes it. Default: the operating system's.
    pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
        self.options.send_buffer_size = Some(bytes);
        self
    }

    /// Sets how many unsent bytes the operating system accepts (`TCP_NOTSENT_LOWAT`), on Linux and
    /// Android. Elsewhere it has no effect. The default is 128 KiB. `None` leaves the system's
    /// setting, by which only the send buffer limits them. Scope: connection.
    ///
    /// The limit bounds the bytes that a close can lose and that a ping waits behind. Without it
    /// the kernel may take no byte for a minute while it empties a send buffer of megabytes to a
    /// slow peer, and the write timeout ends the session.
    pub fn with_unsent_limit(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.options.unsent_limit = bytes.into();
        self
    }

    /// How many bytes the operating system keeps that have come and are not yet read (`SO_RCVBUF`), which bounds how
    /// far a peer may run ahead. Linux doubles the number, for its own use, and then no longer tunes it. Default: the
    /// operating system's.
    pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
        self.options.recv_buffer_size = Some(bytes);
        self
    }

    /// Listens on `address`, or on the first of its addresses that can be had.
    ///
    /// # Errors
    ///
    /// Those of resolving a name. After that the last address's: it names the address, has the kind that the operating
    /// system gave it, such as [`AddrInUse`](io::ErrorKind::AddrInUse), and that error as its source. A setting that
    /// cannot be had is an error here too: [`InvalidInput`](io::ErrorKind::InvalidInput), mostly, or
    /// [`Unsupported`](io::ErrorKind::Unsupported).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves no socket behind.
    pub async fn bind(&self, address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let mut failed = None;
        for address in lookup_host(address).await? {
            match self.listen(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = Some(cannot_listen(address, error)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on")
        }))
    }

    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(self.reuse_address)?;
        if self.reuse_port {
            share_port(&socket)?;
        }
        if let (Some(only_v6), true) = (self.only_v6, address.is_ipv6()) {
            socket.set_only_v6(only_v6)?;
        }
        self.options.apply(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;

        socket.set_nonblocking(true)?;
        Ok(TcpListener {
            inner: tokio::net::TcpListener::from_std(socket.into())?,
            options: self.options,
        })
    }
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, unix))]
mod tests {
    use std::{os::fd::OwnedFd, time::Duration};

    use getty_core::TransportKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    // On Linux no listener accepts such a socket: the connecting socket completes the handshake.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn socket_that_is_connected_to_itself_is_not_accepted_and_its_port_is_free_at_once() {
        let any = SocketAddr::from(([127, 0, 0, 4], 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap();
        socket.connect(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(socket.into()).unwrap();
        let peer = stream.peer_addr().unwrap();
        assert_eq!(stream.local_addr().unwrap(), peer);

        assert!(accepted(stream, peer, Some(StreamOptions::new())).is_none());
        let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        server.bind(&address).unwrap();
    }

    // A Unix socket in the guise of a TCP one knows neither nodelay nor keepalive nor an IP address.
    #[tokio::test]
    async fn connection_survives_settings_that_its_socket_refuses() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours.into_std().unwrap());
        let stream = TcpStream::from_std(ours.into()).unwrap();
        stream.set_nodelay(true).unwrap_err();

        let peer = SocketAddr::from(([192, 0, 2, 1], 7));
        let mut options = StreamOptions::new();
        options.keepalive = Some(Keepalive::new(Duration::from_secs(60)));
        let mut connection = accepted(stream, peer, Some(options)).unwrap();

        assert_eq!(connection.handle().peer_addr(), &Address::Ip(peer));
        assert_eq!(connection.handle().local_addr(), &Address::Unknown);
        assert_eq!(connection.handle().transport(), TransportKind::Tcp);
        theirs.write_all(b"still there").await.unwrap();
        let mut read = [0; 11];
        connection
            .transport_mut()
            .read_exact(&mut read)
            .await
            .unwrap();
        assert_eq!(&read, b"still there");
    }
}
