//! Where a connection comes from: its kind of transport and its two addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An address of an IP transport.
    Ip(SocketAddr),
    /// The path of a Unix socket; `None` for an unnamed one, as the connecting side usually is.
    Unix(Option<Arc<Path>>),
    /// An end of an in-memory connection.
    Memory(u64),
    /// Not known: the transport was not made by a listener or connector that says.
    #[default]
    Unknown,
}

impl Address {
    /// The IP address and port, where the transport has them.
    #[must_use]
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address, where the transport has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// The port, where the transport has one.
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

/// What carries a connection's bytes or messages.
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
    /// Anything else, by the name that its author gives it.
    Other(&'static str),
    /// Not said.
    #[default]
    Unknown,
}

impl TransportKind {
    /// A short name: `tcp`, `tls`, `unix`, `udp`, `ws`, `wss`, `memory`, another's own, or `connection`.
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

/// A connection's kind and addresses, as a listener or connector found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// What carries the connection.
    pub kind: TransportKind,
    /// Our end.
    pub local: Address,
    /// The peer's end.
    pub peer: Address,
}

impl Endpoints {
    /// The endpoints of a connection of `kind` between `local` and `peer`.
    #[must_use]
    pub const fn new(kind: TransportKind, local: Address, peer: Address) -> Self {
        Self { kind, local, peer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_people_write_them() {
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
