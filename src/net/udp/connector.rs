//! Dialling UDP.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::{
    net::{ToSocketAddrs, lookup_host},
    time::{Instant, timeout},
};
use tower_service::Service;

use super::{LONGEST_V6, UdpClient, builder::SocketOptions, client::ClientSettings, probe::PROBE};
use crate::net::connect::{
    CONNECT_TIMEOUT, ConnectError, Connecting, all_failed, can_dial, self_connect, timed_out,
    within,
};

/// Dials UDP: a service from whatever tokio can resolve to a connection with one peer.
///
/// Every dial resolves its target anew and takes the first address to which there is a way, of either IP family. When all
/// fail the error tells of [each](ConnectError::attempts). A dial sends nothing and so learns nothing of the peer, unless
/// [probing](Self::with_probe) is on. If the peer's machine says later that nobody listens on the port, the session closes
/// as [`Io`](crate::CloseReason::Io) with [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), unless that is
/// [ignored](Self::with_refusals_ignored).
///
/// A socket that is connected to itself is refused, as [`TcpConnector`](crate::net::TcpConnector) refuses it.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
/// use getty::{codec::{Bytes, Raw}, net::UdpConnector};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr()?;
/// let (session, _task) = getty::connect(UdpConnector::new(), address, |link| {
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Raw::new()))
///         .layer(link)
///         .layer(SessionLayer::new())
///         .service_fn(|answer: Request<Bytes>| async move {
///             println!("{:?}", answer.message());
///             Ok::<_, BoxError>(None)
///         })
/// })
/// .await?;
/// session.send(Bytes::from("hello")).await?;
/// # let mut buf = [0; 16];
/// # assert_eq!(server.recv(&mut buf).await?, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UdpConnector {
    options: SocketOptions,
    settings: ClientSettings,
    local: Option<SocketAddr>,
    probe: Option<Duration>,
    connect_timeout: Duration,
}

impl UdpConnector {
    /// A connector with the defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            options: SocketOptions::new(),
            settings: ClientSettings {
                max_datagram: LONGEST_V6,
                empty: false,
                ignores_refusals: false,
                probes: false,
            },
            local: None,
            probe: None,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// How long a dial may take, which is how long it may take to resolve the name, and to probe. Default: 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sends the Go library's probe with each dial and waits for an answer, for `wait` at most. An
    /// answer is an empty datagram or the probe itself, and is dropped; any other datagram is
    /// passed to the session. Silence is not a failure, because that library's servers discard
    /// probes, but a refusal is. That library waits for 1 s. The default is off.
    #[must_use]
    pub const fn with_probe(mut self, wait: Duration) -> Self {
        self.probe = Some(wait);
        self.settings.probes = true;
        self
    }

    /// Whether a session goes on when the network says that a datagram could not be delivered: nobody listens there, or
    /// there is no way there, now. Default: no, it closes as [`Io`](crate::CloseReason::Io), so that a client learns that
    /// its server is gone.
    #[must_use]
    pub const fn with_refusals_ignored(mut self, on: bool) -> Self {
        self.settings.ignores_refusals = on;
        self
    }

    /// How long a datagram may be, received or sent, in bytes of payload. Longer ones that are received are dropped and
    /// counted as skipped; sending one is an error. At most what the peer's protocol carries: 65,507 bytes over IPv4 and
    /// 65,527 over IPv6, which is the default.
    #[must_use]
    pub const fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = if bytes < LONGEST_V6 {
            bytes
        } else {
            LONGEST_V6
        };
        self
    }

    /// Whether datagrams of no bytes are messages for the codec. Default: no, they are dropped.
    #[must_use]
    pub const fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// Whether the operating system may send in fragments what is longer than the network's own datagrams. Without it
    /// such a datagram is lost. Linux only; elsewhere the operating system decides. Default: it may.
    #[must_use]
    pub const fn with_fragments(mut self, on: bool) -> Self {
        self.options.fragments = on;
        self
    }

    /// The address to dial from; addresses of the target that are of another family are passed over. Port 0 is any free
    /// one. Default: the operating system's choice.
    #[must_use]
    pub const fn with_local_addr(mut self, address: SocketAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// How many bytes the operating system keeps that are sent and have not left (`SO_SNDBUF`). Default: the operating
    /// system's.
    #[must_use]
    pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
        self.options.send_buffer_size = Some(bytes);
        self
    }

    /// How many bytes the operating system keeps that have come and are not yet read (`SO_RCVBUF`). Default: the
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
    /// The target, and why: its name could not be resolved, there is no way to any of its addresses, a probe was refused,
    /// or a setting cannot be had.
    ///
    /// # Cancel safety
    ///
    /// As [`Connecting`].
    pub async fn connect<A>(&self, target: A) -> Result<Connection<UdpClient>, ConnectError>
    where
        A: ToSocketAddrs + fmt::Debug,
    {
        let name = format!("{target:?}");
        self.dial(target)
            .await
            .map_err(|source| ConnectError::new(name, source))
    }

    async fn dial(&self, target: impl ToSocketAddrs) -> io::Result<Connection<UdpClient>> {
        let started = Instant::now();
        let resolved = within(self.connect_timeout, lookup_host(target)).await?;
        let mut failed = Vec::new();
        for address in resolved.filter(|address| can_dial(self.local, address)) {
            let left = self.connect_timeout.saturating_sub(started.elapsed());
            let error = match timeout(left, self.dial_address(address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => timed_out(self.connect_timeout),
            };
            tracing::debug!(%address, %error, "cannot connect");
            failed.push((address, error));
        }
        Err(all_failed(failed))
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<Connection<UdpClient>> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = self.options.socket(address)?;
        socket.bind(&self.local.unwrap_or(any).into())?;
        socket.connect(&address.into())?;
        // what was dialled may stand for another address, such as 0.0.0.0 for this machine
        let peer = socket.peer_addr()?.as_socket().unwrap_or(address);
        let socket = self.options.finish(socket, true)?;
        if socket.local() == peer {
            return Err(self_connect());
        }
        let endpoints = Endpoints::new(
            TransportKind::Udp,
            Address::Ip(socket.local()),
            Address::Ip(peer),
        );
        let mut client = UdpClient::new(socket, peer, self.settings);
        if let Some(wait) = self.probe {
            client.get_ref().send(PROBE).await?;
            client.is_probing = true;
            // that nothing comes back is no failure
            timeout(wait, poll_fn(|cx| client.poll_fill(cx)))
                .await
                .unwrap_or(Ok(()))?;
            client.is_probing = false;
        }
        Ok(Connection::with_endpoints(client, endpoints))
    }
}

impl Default for UdpConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Service<A> for UdpConnector
where
    A: ToSocketAddrs + fmt::Debug + Send + 'static,
{
    type Response = Connection<UdpClient>;
    type Error = ConnectError;
    type Future = Connecting<UdpClient>;

    /// Always ready: nothing is reserved before a dial.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: A) -> Self::Future {
        let connector = self.clone();
        Connecting::new(async move { connector.connect(target).await })
    }
}
