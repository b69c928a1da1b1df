//! The TCP connector.

use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::Connection;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, ToSocketAddrs};
use tower_service::Service;

use super::{
    options::{Keepalive, StreamOptions},
    stream::{connection, resets_self_connect},
};
use crate::{
    net::connect::{ConnectError, Connecting, Dialer, dial_settings, self_connect},
    platform::REUSES_ADDRESS,
};

/// Default "connection attempt delay" of RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects over TCP: a service from any target that tokio can resolve to a connection.
///
/// Each dial resolves its target again. Several addresses are raced as in RFC 8305 ("happy
/// eyeballs"). Their families alternate. Each dial starts 250 ms after the one before, or at
/// once if a dial has failed. The first success drops the other dials. If all fail, the error
/// holds the error of [each address](ConnectError::attempts).
///
/// A socket that connected to itself is closed, and the dial fails with an error whose
/// [`is_self_connect`](ConnectError::is_self_connect) returns `true`. The operating system can
/// cause this when a client keeps dialing a local port that no server listens on. The server
/// could then not bind its port.
///
/// ```no_run
/// use std::time::Duration;
/// use getty::net::TcpConnector;
/// use getty::tower::ServiceExt;
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connector = TcpConnector::new().with_connect_timeout(Duration::from_secs(10));
/// let connection = connector.clone().oneshot("example.com:7000").await?;
/// // the same without tower
/// let connection = connector.connect(("example.com", 7000)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TcpConnector {
    options: StreamOptions,
    dialer: Dialer,
}

impl TcpConnector {
    /// Creates a new connector with the default settings.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            options: StreamOptions::new(),
            dialer: Dialer {
                attempt_delay: Some(ATTEMPT_DELAY),
                ..Dialer::new()
            },
        }
    }

    /// Sets the time after which the next of several addresses is dialed concurrently. The default
    /// is 250 ms, as RFC 8305 recommends.
    #[must_use]
    pub const fn with_attempt_delay(mut self, delay: Duration) -> Self {
        self.dialer.attempt_delay = Some(delay);
        self
    }

    /// Sets whether small writes are sent at once (`TCP_NODELAY`), without waiting for the peer to
    /// acknowledge earlier ones. The default is `true`.
    #[must_use]
    pub const fn with_nodelay(mut self, on: bool) -> Self {
        self.options.nodelay = on;
        self
    }

    /// Sets the probes that the operating system sends over idle connections. The default is none.
    #[must_use]
    pub const fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        self.options.keepalive = Some(keepalive);
        self
    }

    /// Sets the maximum number of unsent bytes in the kernel on Linux and Android
    /// (`TCP_NOTSENT_LOWAT`). Elsewhere it has no effect. The default is 128 KiB. `None` leaves the
    /// system's setting. Then only the send buffer limits them. Scope: connection.
    ///
    /// The limit bounds the bytes that a close can lose and that a ping waits behind. Without it
    /// the kernel may accept no byte for a minute while it empties a send buffer of megabytes to a
    /// slow peer, and the write timeout closes the session.
    #[must_use]
    pub fn with_unsent_limit(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.options.unsent_limit = bytes.into();
        self
    }

    dial_settings! {
        /// Sets the time limit of a dial, from the name lookup to the last address. The default is
        /// 3 s.
        ///
        /// [`Duration::MAX`] leaves the limit to the operating system, which tries for minutes.
        with_connect_timeout
        /// Sets the local address to dial from. Port 0 selects any free port. The default is the
        /// operating system's choice.
        ///
        /// Target addresses of the other family are skipped. With a fixed port, a dial can succeed
        /// while an earlier connection from it is still in the time-wait state (`SO_REUSEADDR`)
        /// unless that connection was to the same address.
        with_local_addr
        /// Sets the size of the operating system's send buffer (`SO_SNDBUF`), in bytes.
        ///
        /// The buffer holds bytes that are written and not yet acknowledged. Linux doubles the
        /// number for its bookkeeping and stops tuning the size. The default is the operating
        /// system's.
        with_send_buffer_size
        /// Sets the size of the operating system's receive buffer (`SO_RCVBUF`), in bytes.
        ///
        /// The buffer holds bytes that have arrived and are not yet read, and so bounds how far a
        /// peer may run ahead. Linux doubles the number for its bookkeeping and stops tuning the
        /// size. The default is the operating system's.
        with_recv_buffer_size
    }

    /// Connects to `target`.
    ///
    /// # Errors
    ///
    /// The error names the target. A dial fails if the name cannot be resolved, if no address
    /// answers in time, if all refuse, or if a socket option cannot be set.
    ///
    /// # Cancel safety
    ///
    /// As for [`Connecting`].
    pub async fn connect<A>(&self, target: A) -> Result<Connection<TcpStream>, ConnectError>
    where
        A: ToSocketAddrs + fmt::Debug,
    {
        let dial = |address| self.dial_address(address);
        self.dialer.dial(target, dial).await
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<Connection<TcpStream>> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        self.options.apply(&SockRef::from(&socket))?;
        if let Some(local) = self.dialer.local {
            socket.set_reuseaddr(REUSES_ADDRESS && local.port() != 0)?;
            socket.bind(local)?;
        }
        let stream = socket.connect(address).await?;

        let local = stream.local_addr();
        // The dialed address may stand for another one, such as 0.0.0.0 for this machine.
        let peer = stream.peer_addr().unwrap_or(address);
        if resets_self_connect(&stream, &local, peer) {
            return Err(self_connect());
        }
        Ok(connection(stream, local, peer))
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Service<A> for TcpConnector
where
    A: ToSocketAddrs + fmt::Debug + Send + 'static,
{
    type Response = Connection<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting<TcpStream>;

    /// Always returns ready because a dial reserves nothing.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: A) -> Self::Future {
        let connector = self.clone();
        Connecting::new(async move { connector.connect(target).await })
    }
}
