//! The UDP connector.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::{net::ToSocketAddrs, time::timeout};
use tower_service::Service;

use super::transport::{ClientSettings, UdpClient};
use crate::net::{
    connect::{ConnectError, Connecting, Dialer, dial_settings, self_connect},
    udp::{
        probe::PROBE,
        socket::{MAX_PAYLOAD, SocketOptions, at_most_max_payload},
    },
};

/// Connects over UDP: a service from any target that tokio can resolve to a connection with one
/// peer.
///
/// Each dial resolves its target again. It uses the first address that has a route, of either
/// IP family. If all fail, the error holds the error of [each address](ConnectError::attempts).
///
/// A dial sends nothing, and so does not detect whether the peer exists unless a
/// [probe](Self::with_probe) is set. If the peer's machine reports later that nothing listens
/// on the port, the session closes with [`Io`](crate::CloseReason::Io) and
/// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused). Such reports can be
/// [ignored](Self::with_refusals_ignored).
///
/// A socket that is connected to itself is refused, as with
/// [`TcpConnector`](crate::net::TcpConnector).
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
    /// Time to wait for the answer to a probe. `None` sends no probe.
    probe: Option<Duration>,
    dialer: Dialer,
}

impl UdpConnector {
    /// Creates a new connector with the default settings.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            options: SocketOptions::new(),
            settings: ClientSettings {
                max_datagram: MAX_PAYLOAD,
                empty: false,
                ignores_refusals: false,
                probes: false,
            },
            probe: None,
            dialer: Dialer::new(),
        }
    }

    /// Sets the time to wait for an answer to the probe of the Go library getty. Each dial then
    /// sends the probe. The default sends none. The Go library waits for 1 s.
    ///
    /// An answer is an empty datagram or the probe itself, and is dropped. Any other datagram is
    /// passed to the session. A refusal fails the dial. Silence does not because servers of the Go
    /// library discard probes.
    #[must_use]
    pub const fn with_probe(mut self, wait: Duration) -> Self {
        self.probe = Some(wait);
        self.settings.probes = true;
        self
    }

    /// Sets whether a session continues when the network reports that a datagram could not be
    /// delivered because nothing listens there or there is no route. The default is `false`: the
    /// session closes with [`Io`](crate::CloseReason::Io) so that a client detects that its server
    /// is gone.
    #[must_use]
    pub const fn with_refusals_ignored(mut self, on: bool) -> Self {
        self.settings.ignores_refusals = on;
        self
    }

    /// Sets the maximum length of a datagram, received or sent, in bytes of payload. The default
    /// and the upper limit is the maximum of the peer's protocol: 65,507 bytes over IPv4 and 65,527
    /// bytes over IPv6.
    ///
    /// A longer datagram that is received is dropped and counted as skipped. Sending one fails.
    #[must_use]
    pub const fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = at_most_max_payload(bytes);
        self
    }

    /// Sets whether empty datagrams are messages for the codec. The default is `false`: they are
    /// dropped.
    #[must_use]
    pub const fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// Sets whether the operating system may send long datagrams in fragments on Linux and
    /// Android. If `false`, it refuses a datagram above the limit of the local network, and one
    /// above the limit of a later network is lost. Elsewhere it has no effect: Windows, Apple's
    /// systems and FreeBSD send no fragments, and other systems send none over IPv6. The default
    /// is `true`.
    #[must_use]
    pub const fn with_fragments(mut self, on: bool) -> Self {
        self.options.fragments = on;
        self
    }

    dial_settings! {
        /// Sets the time limit of a dial: of the name lookup, and of the probe. The default is 3 s.
        with_connect_timeout
        /// Sets the local address to dial from. Port 0 selects any free port. The default is the
        /// operating system's choice.
        ///
        /// Target addresses of the other family are skipped.
        with_local_addr
        /// Sets the size of the operating system's send buffer (`SO_SNDBUF`), in bytes. The default
        /// is the operating system's.
        with_send_buffer_size
        /// Sets the size of the operating system's receive buffer (`SO_RCVBUF`), in bytes.
        /// Datagrams that exceed it are lost. The default is the operating system's.
        with_recv_buffer_size
    }

    /// Connects to `target`.
    ///
    /// # Errors
    ///
    /// The error names the target. A dial fails if the name cannot be resolved, if no address has a
    /// route, if a probe is refused, or if a socket option cannot be set.
    ///
    /// # Cancel safety
    ///
    /// As for [`Connecting`].
    pub async fn connect<A>(&self, target: A) -> Result<Connection<UdpClient>, ConnectError>
    where
        A: ToSocketAddrs + fmt::Debug,
    {
        let dial = |address| self.dial_address(address);
        self.dialer.dial(target, dial).await
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<Connection<UdpClient>> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let local = self.dialer.local.unwrap_or(any);
        let (socket, peer) = self.options.connect(local, address)?;
        if socket.local_addr() == peer {
            return Err(self_connect());
        }
        let endpoints = Endpoints::new(
            TransportKind::Udp,
            Address::Ip(socket.local_addr()),
            Address::Ip(peer),
        );
        let mut client = UdpClient::new(socket, peer, self.settings);
        if let Some(wait) = self.probe {
            client.get_ref().send(PROBE).await?;
            client.is_probing = true;
            // silence is not a failure
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

    /// Always returns ready because a dial reserves nothing.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: A) -> Self::Future {
        let connector = self.clone();
        Connecting::new(async move { connector.connect(target).await })
    }
}
