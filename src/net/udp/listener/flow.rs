//! The address pair that identifies a session.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use crate::net::udp::socket::IncomingDatagram;

/// The peer's address, and the local address that it sends to.
///
/// A peer that sends to two local addresses has two sessions, as over TCP. Each replies from
/// its local address (design.md: Why does a peer have a session for each local address that it
/// sends to?).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) peer: SocketAddr,
    /// `None` where the operating system does not report it.
    pub(super) local: Option<IpAddr>,
}

impl Flow {
    /// Returns the flow that `datagram` belongs to.
    pub(super) const fn of(datagram: &IncomingDatagram<'_>) -> Self {
        Self {
            peer: datagram.peer,
            local: datagram.local,
        }
    }
}

/// Hashes the addresses and the port in one write, which is cheaper than the derived hash.
impl Hash for Flow {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = self.peer.port().to_ne_bytes();
        match (self.peer.ip(), self.local) {
            (IpAddr::V4(peer), Some(IpAddr::V4(local))) => {
                let mut bytes = [0; 10];
                bytes[..4].copy_from_slice(&peer.octets());
                bytes[4..8].copy_from_slice(&local.octets());
                bytes[8..].copy_from_slice(&port);
                state.write(&bytes);
            }
            (peer, local) => {
                let mut bytes = [0; 34];
                bytes[..16].copy_from_slice(&octets(peer));
                if let Some(local) = local {
                    bytes[16..32].copy_from_slice(&octets(local));
                }
                bytes[32..].copy_from_slice(&port);
                state.write(&bytes);
            }
        }
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
