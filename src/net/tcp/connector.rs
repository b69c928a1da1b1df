//! Dialling TCP.

use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::Connection;
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream, ToSocketAddrs, lookup_host},
    time::timeout,
};
use tower_service::Service;

use super::{
    connection,
    options::{Keepalive, StreamOptions},
    race::{interleave, race},
    resets_self_connect,
};
use crate::net::connect::{
    CONNECT_TIMEOUT, ConnectError, Connecting, all_failed, can_dial, self_connect, timed_out,
};

/// RFC 8305's "connection attempt delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Dials TCP: a service from whatever tokio can resolve to a connection.
///
/// Every dial resolves its target anew. Several addresses are raced, as RFC 8305 has it ("happy eyeballs"): their
/// families take turns, each address is dialled 250 ms after the one before, or at once when one has failed, and the
/// first connection counts; the other dials are dropped. When all fail the error tells of [each](ConnectError::attempts).
///
/// A socket that connected to itself is closed, and the dial fails, with an error of which
/// [`is_self_connect`](ConnectError::is_self_connect) is true. The operating system can do that to a client that keeps
/// dialling a port of its own machine on which nobody listens, and the server could not have its port back.
///
/// ```no_run
/// use std::time::Duration;
/// use getty::net::TcpConnector;
/// use tower::ServiceExt;
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
    local: Option<SocketAddr>,
    connect_timeout: Duration,
    attempt_delay: Duration,
}

impl TcpConnector {
    /// A connector with the defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            options: StreamOptions::new(),
            local: None,
            connect_timeout: CONNECT_TIMEOUT,
            attempt_delay: ATTEMPT_DELAY,
        }
    }

    /// How long a dial may take, from resolving the name to the last of its addresses. [`Duration::MAX`] leaves it to
    /// the operating system, which tries for minutes. Default: 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long to wait for one of several addresses before the next is dialled beside it. Default: 250 ms, as RFC 8305
    /// recommends.
    #[must_use]
    pub const fn with_attempt_delay(mut self, delay: Duration) -> Self {
        self.attempt_delay = delay;
        self
    }

    /// Whether small writes leave at once (`TCP_NODELAY`) and do not wait for the peer to acknowledge earlier ones.
    /// Default: on.
    #[must_use]
    pub const fn with_nodelay(mut self, on: bool) -> Self {
        self.options.nodelay = on;
        self
    }

    /// Has the operating system look after idle connections. Default: off.
    #[must_use]
    pub const fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        self.options.keepalive = Some(keepalive);
        self
    }

    /// The address to dial from; addresses of the target that are of another family are passed over. Port 0 is any free
    /// one. With another port a dial succeeds again while an earlier connection from it still fades away
    /// (`SO_REUSEADDR`), unless to the same address. Default: the operating system's choice.
    #[must_use]
    pub const fn with_local_addr(mut self, address: SocketAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// How many bytes the operating system keeps that are written and not yet acknowledged (`SO_SNDBUF`). Linux doubles
    /// the number, for its own use, and then no longer tunes it. Default: the operating system's.
    #[must_use]
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
    #[must_use]
    pub fn with_unsent_limit(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.options.unsent_limit = bytes.into();
        self
    }

    /// How many bytes the operating system keeps that have come and are not yet read (`SO_RCVBUF`), which bounds how
    /// far a peer may run ahead. Linux doubles the number, for its own use, and then no longer tunes it. Default: the
    /// operating system's.
    #[must_use]
    pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
        self.options.recv_buffer_size = Some(bytes);
        self
    }

    /// Dials `target`.
    ///
    /// # Errors
    ///
    /// The target, and why: its name could not be resolved, none of its addresses answered in time, each refused, or a
    /// setting cannot be had.
    ///
    /// # Cancel safety
    ///
    /// As [`Connecting`].
    pub async fn connect<A>(&self, target: A) -> Result<Connection<TcpStream>, ConnectError>
    where
        A: ToSocketAddrs + fmt::Debug,
    {
        let name = format!("{target:?}");
        self.dial(target)
            .await
            .map_err(|source| ConnectError::new(name, source))
    }

    async fn dial(&self, target: impl ToSocketAddrs) -> io::Result<Connection<TcpStream>> {
        let mut addresses = Vec::new();
        let mut failed = Vec::new();
        let dialled = timeout(self.connect_timeout, async {
            let resolved = lookup_host(target).await?;
            addresses = interleave(resolved.filter(|address| can_dial(self.local, address)));
            let dial = |address| self.dial_address(address);
            Ok(race(&addresses, self.attempt_delay, dial, &mut failed).await)
        });
        match dialled.await {
            Ok(Ok(Some(connection))) => Ok(connection),
            Ok(Ok(None)) => Err(all_failed(failed)),
            Ok(Err(unresolved)) => Err(unresolved),
            Err(_) => {
                for address in addresses {
                    if !failed.iter().any(|(tried, _)| *tried == address) {
                        failed.push((address, timed_out(self.connect_timeout)));
                    }
                }
                if failed.is_empty() {
                    // the name was not resolved in time
                    return Err(timed_out(self.connect_timeout));
                }
                Err(all_failed(failed))
            }
        }
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<Connection<TcpStream>> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        self.options.apply(&SockRef::from(&socket))?;
        if let Some(local) = self.local {
            socket.set_reuseaddr(cfg!(unix) && local.port() != 0)?;
            socket.bind(local)?;
        }
        let stream = socket.connect(address).await?;

        let local = stream.local_addr();
        // what was dialled may stand for another address, such as 0.0.0.0 for this machine
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

    /// Always ready: nothing is reserved before a dial.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: A) -> Self::Future {
        let connector = self.clone();
        Connecting::new(async move { connector.connect(target).await })
    }
}
