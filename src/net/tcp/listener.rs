//! The TCP listener and its builder.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection, internal::log};
use socket2::{Protocol, SockRef, Type};
use tokio::net::{TcpStream, ToSocketAddrs};

use super::{
    options::{Keepalive, StreamOptions},
    stream::{connection, resets_self_connect},
};
use crate::{
    net::{
        bind::{BACKLOG, bind_first},
        listener::Listener,
        socket_options::BindOptions,
    },
    platform::{INHERITS_OPTIONS, REUSES_ADDRESS},
};

/// tokio's listener. Its connections have nodelay set. [`getty::net::TcpListener`](TcpListener)
/// has more settings.
impl Listener for tokio::net::TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        poll_accept(self, Some(StreamOptions::new()), cx)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(Address::Ip)
    }
}

/// Accepts TCP connections, with the settings that a server needs.
///
/// [`bind`](Self::bind) uses the defaults, and [`builder`](Self::builder) has the settings. A
/// listener that is converted from tokio's or the standard library's keeps its settings, and
/// its accepted connections have nodelay set.
///
/// The peer address of an IPv4 connection to an IPv6 listener has the form `::ffff:192.0.2.1`.
///
/// ```
/// use getty::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?; // port 0: any free port
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
    /// Listens on the first address of `address` that can be bound, with the default settings of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// As for [`TcpListenerBuilder::bind`].
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no socket behind.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::builder().bind(address).await
    }

    /// Creates a builder with the default settings, to be [bound](TcpListenerBuilder::bind) to an
    /// address.
    pub const fn builder() -> TcpListenerBuilder {
        TcpListenerBuilder {
            backlog: BACKLOG,
            bind: BindOptions {
                reuse_address: REUSES_ADDRESS,
                ..BindOptions::new()
            },
            options: StreamOptions::new(),
        }
    }

    /// Returns the local address, with the assigned port if port 0 was requested.
    ///
    /// # Errors
    ///
    /// Fails if the operating system cannot report the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Returns a reference to tokio's listener.
    pub const fn get_ref(&self) -> &tokio::net::TcpListener {
        &self.inner
    }

    /// Returns tokio's listener, without the settings for accepted connections.
    pub fn into_inner(self) -> tokio::net::TcpListener {
        self.inner
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let options = (!INHERITS_OPTIONS).then_some(self.options);
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

/// Converts a listener that was inherited, for example from a service manager. Panics if called
/// outside of a tokio runtime.
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

/// Returns the connection over an accepted socket, or `None` if the socket is connected to
/// itself. Without `options` the socket has inherited the settings.
fn accepted(
    stream: TcpStream,
    peer: SocketAddr,
    options: Option<StreamOptions>,
) -> Option<Connection<TcpStream>> {
    let local = stream.local_addr();
    if resets_self_connect(&stream, &local, peer) {
        log(|| tracing::warn!(%peer, "reset an accepted socket that is connected to itself"));
        return None;
    }
    if let Some(options) = options {
        options.apply_to_accepted(&stream);
    }
    Some(connection(stream, local, peer))
}

/// Settings of a [`TcpListener`], created by [`TcpListener::builder`].
///
/// Socket options apply to each accepted connection.
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
    bind: BindOptions,
    options: StreamOptions,
}

impl TcpListenerBuilder {
    /// Sets the maximum number of connections that the operating system completes before they are
    /// accepted. The default is 1024.
    ///
    /// Further connections wait at the client or fail there. Linux caps the number at
    /// `net.core.somaxconn`.
    pub const fn with_backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets whether small writes are sent at once (`TCP_NODELAY`), without waiting for the peer to
    /// acknowledge earlier ones. The default is `true`.
    pub const fn with_nodelay(mut self, on: bool) -> Self {
        self.options.nodelay = on;
        self
    }

    /// Sets the probes that the operating system sends over idle connections. The default is none.
    pub const fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        self.options.keepalive = Some(keepalive);
        self
    }

    /// Sets whether the port can be bound while connections of an earlier listener are still in the
    /// time-wait state, as after a restart (`SO_REUSEADDR`). The default is `true`. On Windows it
    /// is `false`, because the option has another meaning there.
    pub const fn with_reuse_address(mut self, on: bool) -> Self {
        self.bind.reuse_address = on;
        self
    }

    /// Sets whether several listeners of the same user may share the port (`SO_REUSEPORT`). All of
    /// them must set it. The default is `false`.
    ///
    /// Linux distributes connections over the listeners. Connections in the backlog of a listener
    /// that closes are lost.
    pub const fn with_reuse_port(mut self, on: bool) -> Self {
        self.bind.reuse_port = on;
        self
    }

    /// Sets whether an IPv6 listener excludes IPv4 (`IPV6_V6ONLY`). If `false`, `[::]` may accept
    /// connections of both families. IPv4 addresses are not affected. The default is the operating
    /// system's, which is `false` on Linux.
    pub const fn with_only_v6(mut self, on: bool) -> Self {
        self.bind.only_v6 = Some(on);
        self
    }

    /// Sets the size of the operating system's send buffer (`SO_SNDBUF`), in bytes.
    ///
    /// The buffer holds bytes that are written and not yet acknowledged. Linux doubles the number
    /// for its bookkeeping and stops tuning the size. The default is the operating system's.
    pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
        self.options.buffers.send = Some(bytes);
        self
    }

    /// Sets the maximum number of unsent bytes in the kernel on Linux and Android
    /// (`TCP_NOTSENT_LOWAT`). Elsewhere it has no effect. The default is 128 KiB. `None` leaves the
    /// system's setting. Then only the send buffer limits them. Scope: connection.
    ///
    /// The limit bounds the bytes that a close can lose and that a ping waits behind. Without it
    /// the kernel may accept no byte for a minute while it empties a send buffer of megabytes to a
    /// slow peer, and the write timeout closes the session.
    pub fn with_unsent_limit(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.options.unsent_limit = bytes.into();
        self
    }

    /// Sets the size of the operating system's receive buffer (`SO_RCVBUF`), in bytes.
    ///
    /// The buffer holds bytes that have arrived and are not yet read, and so bounds how far a peer
    /// may run ahead. Linux doubles the number for its bookkeeping and stops tuning the size. The
    /// default is the operating system's.
    pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
        self.options.buffers.recv = Some(bytes);
        self
    }

    /// Listens on the first address of `address` that can be bound.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot be resolved. Otherwise returns the error of the last address. It
    /// names the address, and the operating system's error is its source. Its kind is the source's,
    /// such as [`AddrInUse`](io::ErrorKind::AddrInUse). A socket option that cannot be set is an
    /// error as well, usually [`InvalidInput`](io::ErrorKind::InvalidInput) or
    /// [`Unsupported`](io::ErrorKind::Unsupported).
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no socket behind.
    pub async fn bind(&self, address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        bind_first(address, |address| self.listen(address)).await
    }

    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.bind.socket(address, Type::STREAM, Protocol::TCP)?;
        self.options.apply(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(TcpListener {
            inner: tokio::net::TcpListener::from_std(socket.into())?,
            options: self.options,
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{os::fd::OwnedFd, time::Duration};

    use getty_core::TransportKind;
    use socket2::{Domain, Socket};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    // On Linux no listener accepts such a socket: the connecting socket completes the handshake.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn self_connected_socket_is_not_accepted_and_its_port_is_free_at_once() {
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

    // A Unix socket wrapped as a TCP stream has neither nodelay nor keepalive nor an IP address.
    #[tokio::test]
    async fn connection_survives_settings_that_its_socket_refuses() {
        let (local, mut remote) = tokio::net::UnixStream::pair().unwrap();
        let local = OwnedFd::from(local.into_std().unwrap());
        let stream = TcpStream::from_std(local.into()).unwrap();
        stream.set_nodelay(true).unwrap_err();

        let peer = SocketAddr::from(([192, 0, 2, 1], 7));
        let mut options = StreamOptions::new();
        options.keepalive = Some(Keepalive::new(Duration::from_secs(60)));
        let mut connection = accepted(stream, peer, Some(options)).unwrap();

        assert_eq!(connection.handle().peer_addr(), &Address::Ip(peer));
        assert_eq!(connection.handle().local_addr(), &Address::Unknown);
        assert_eq!(connection.handle().transport(), TransportKind::Tcp);
        remote.write_all(b"still there").await.unwrap();
        let mut read = [0; 11];
        connection
            .transport_mut()
            .read_exact(&mut read)
            .await
            .unwrap();
        assert_eq!(&read, b"still there");
    }
}
