//! Targets of clients, with the addresses that their headers contain.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use getty_core::{Address, ConnectionHandle};

/// Contents of a header that a client sends.
///
/// Both addresses must be IP addresses or Unix paths. An IPv4 address beside an IPv6 address is
/// sent as a mapped one. With other addresses, and with Unix paths in version 1, the header has
/// none: the receiver uses those of its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProxyHeader {
    /// Address of the client that is relayed.
    pub source: Address,
    /// Address that the client connected to.
    pub destination: Address,
    /// TLVs as pairs of type and value. Version 1 has none, and leaves them out.
    pub tlvs: Vec<(u8, Bytes)>,
}

impl ProxyHeader {
    /// Creates a new header with these addresses and without TLVs.
    #[must_use]
    pub const fn new(source: Address, destination: Address) -> Self {
        Self {
            source,
            destination,
            tlvs: Vec::new(),
        }
    }

    /// Adds a TLV. The types from `0xE0` to `0xEF` are free for applications.
    #[must_use]
    pub fn with_tlv(mut self, kind: u8, value: impl Into<Bytes>) -> Self {
        self.tlvs.push((kind, value.into()));
        self
    }
}

/// Target of a [`ProxyProtocolConnect`](super::ProxyProtocolConnect) that relays a client.
///
/// ```
/// use getty::{Session, net::TcpConnector, proxy::{ProxyProtocolConnectLayer, ProxyFor}};
/// use getty::{BoxError, Service, ServiceBuilder};
/// use getty::tower::ServiceExt;
///
/// /// Connects to the server on behalf of the client of `session`.
/// async fn dial(session: &Session<String>) -> Result<(), BoxError> {
///     let connector = ServiceBuilder::new()
///         .layer(ProxyProtocolConnectLayer::v2())
///         .service(TcpConnector::new());
///     let target = ProxyFor::client("10.0.0.5:7000", session).with_tlv(0xE0, "eu-west");
///     let connection = connector.oneshot(target).await?;
///     // ...
/// #   drop(connection);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProxyFor<A> {
    /// Target of the connector inside.
    pub target: A,
    /// Contents of the header.
    pub header: ProxyHeader,
}

impl<A> ProxyFor<A> {
    /// Creates a new target for a client at `source`, which connected to `destination`.
    #[must_use]
    pub const fn new(target: A, source: Address, destination: Address) -> Self {
        let header = ProxyHeader::new(source, destination);
        Self { target, header }
    }

    /// Creates a new target for the client of another connection.
    #[must_use]
    pub fn client(target: A, client: &ConnectionHandle) -> Self {
        Self::new(
            target,
            client.peer_addr().clone(),
            client.local_addr().clone(),
        )
    }

    /// Adds a TLV to the header. The types from `0xE0` to `0xEF` are free for applications.
    #[must_use]
    pub fn with_tlv(mut self, kind: u8, value: impl Into<Bytes>) -> Self {
        self.header = self.header.with_tlv(kind, value);
        self
    }
}

/// Target of a [`ProxyProtocolConnect`](super::ProxyProtocolConnect): a target of the connector
/// inside, with or without a client that is relayed.
///
/// It is implemented for [`ProxyFor`], and for the targets of getty's connectors. These relay
/// no client, so the header has the command LOCAL, or UNKNOWN in version 1. Implement it for
/// other types of targets:
///
/// ```
/// use getty::proxy::{ProxiedTarget, ProxyHeader};
///
/// struct Shard(u16);
///
/// impl ProxiedTarget for Shard {
///     type Target = (&'static str, u16);
///
///     fn into_parts(self) -> (Self::Target, Option<ProxyHeader>) {
///         (("shards.internal", self.0), None)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a target with a PROXY header",
    label = "implement `getty::proxy::ProxiedTarget` for it, or wrap it in a `ProxyFor`"
)]
pub trait ProxiedTarget {
    /// Target of the connector inside.
    type Target;

    /// Returns the target of the connector, and the contents of the header if a client is
    /// relayed.
    fn into_parts(self) -> (Self::Target, Option<ProxyHeader>);
}

impl<A> ProxiedTarget for ProxyFor<A> {
    type Target = A;

    fn into_parts(self) -> (A, Option<ProxyHeader>) {
        (self.target, Some(self.header))
    }
}

/// Implements [`ProxiedTarget`] for targets without a client.
macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(
        impl ProxiedTarget for $type {
            type Target = Self;

            fn into_parts(self) -> (Self, Option<ProxyHeader>) {
                (self, None)
            }
        }
    )* };
}

plain!(
    (),
    &str,
    String,
    (&str, u16),
    (String, u16),
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    &[SocketAddr],
    &Path,
    PathBuf,
);

#[cfg(feature = "tls")]
impl<A: crate::tls::TlsTarget> crate::tls::TlsTarget for ProxyFor<A> {
    /// Returns the name of the inner target.
    fn server_name(&self) -> Option<rustls::pki_types::ServerName<'static>> {
        self.target.server_name()
    }
}
