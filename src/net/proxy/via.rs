//! Attribute of connections that pass through a proxy.

use std::fmt;

use super::target::ProxyTarget;

/// Protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyKind {
    /// SOCKS 5 (RFC 1928).
    Socks5,
    /// HTTP/1.1 with the method `CONNECT`.
    Http,
}

impl fmt::Display for ProxyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Socks5 => "SOCKS5",
            Self::Http => "HTTP",
        })
    }
}

/// Target of a connection that passes through a proxy: an attribute of the connection's handle.
///
/// The handle's [`peer_addr`](crate::ConnectionHandle::peer_addr) is the proxy's address. With
/// a chain of proxies, `Via` has the target of the last one.
///
/// ```
/// use getty::{ConnectionHandle, net::proxy::Via};
///
/// /// Describes the peer for a log line.
/// fn peer(handle: &ConnectionHandle) -> String {
///     match handle.get::<Via>() {
///         Some(via) => format!("{} via {} proxy {}", via.target(), via.kind(), handle.peer_addr()),
///         None => handle.peer_addr().to_string(),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    kind: ProxyKind,
    target: ProxyTarget,
}

impl Via {
    pub(super) const fn new(kind: ProxyKind, target: ProxyTarget) -> Self {
        Self { kind, target }
    }

    /// Returns the target as the caller named it, even if its name was resolved locally.
    #[must_use]
    pub const fn target(&self) -> &ProxyTarget {
        &self.target
    }

    /// Returns the kind of the proxy.
    #[must_use]
    pub const fn kind(&self) -> ProxyKind {
        self.kind
    }
}
