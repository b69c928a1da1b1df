//! Kind of transport and addresses of a connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

/// Address of one end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An address of an IP transport.
    Ip(SocketAddr),
    /// The path of a Unix socket, or `None` for an unnamed socket. The connecting side is usually
    /// unnamed.
    Unix(Option<Arc<Path>>),
    /// An end of an in-memory connection, with its number.
    Memory(u64),
    /// Unknown because the listener or connector did not set the address.
    #[default]
    Unknown,
}

impl Address {
    /// Returns the IP address and port if the transport has them.
    #[must_use]
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            _ => None,
        }
    }

    /// Returns the IP address if the transport has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// Returns the port if the transport has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(Some(path)) => path.display().fmt(f),
            Self::Unix(None) => f.write_str("unnamed"),
            Self::Memory(id) => write!(f, "memory-{id}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Kind of transport below a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportKind {
    /// A TCP stream.
    Tcp,
    /// TLS over a byte stream.
    Tls,
    /// A Unix stream socket.
    Unix,
    /// UDP datagrams.
    Udp,
    /// WebSocket over a byte stream.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket,
    /// A pipe within the process.
    Memory,
    /// Any other transport, with the name that its author gives it.
    Other(&'static str),
    /// Unknown.
    #[default]
    Unknown,
}

impl TransportKind {
    /// Returns a short name: `tcp`, `tls`, `unix`, `udp`, `ws`, `wss`, `memory`, the name in
    /// `Other`, or `connection` for an unknown kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Unix => "unix",
            Self::Udp => "udp",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
            Self::Memory => "memory",
            Self::Other(name) => name,
            Self::Unknown => "connection",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Kind of transport and addresses of a connection. Set by the listener or connector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Kind of transport.
    pub kind: TransportKind,
    /// Address of this side.
    pub local: Address,
    /// Address of the peer.
    pub peer: Address,
}

impl Endpoints {
    /// Creates the endpoints of a connection of `kind` between `local` and `peer`.
    #[must_use]
    pub const fn new(kind: TransportKind, local: Address, peer: Address) -> Self {
        Self { kind, local, peer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_in_their_usual_notation() {
        let ip: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        assert_eq!(Address::from(ip).to_string(), "127.0.0.1:7000");
        assert_eq!(
            Address::Unix(Some(Path::new("/run/x").into())).to_string(),
            "/run/x"
        );
        assert_eq!(Address::Unix(None).to_string(), "unnamed");
        assert_eq!(Address::from(ip).port(), Some(7000));
        assert_eq!(Address::Unknown.ip(), None);
    }
}
