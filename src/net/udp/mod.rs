//! UDP: a session a peer, one session for a whole socket, and a connected client.
//!
//! | | a session is | messages are | made by |
//! |---|---|---|---|
//! | [`UdpListener`] | one peer address, and the local one that it sends to | what the codec decodes | the peer's first datagram |
//! | [`UdpEndpoint`] | the whole socket | [`Datagram`]s, which know their peer | binding it |
//! | [`UdpConnector`] | one socket with one peer | what the codec decodes | dialling |
//!
//! One datagram is one message, both ways. One that cannot be decoded is skipped and counted, unless
//! [`SessionLayer::with_bad_messages_skipped`](crate::SessionLayer::with_bad_messages_skipped) says that it closes the
//! session. A message that does not fit a datagram is an error to whoever sends it, with its size
//! ([`MessageTooLong`](crate::session::MessageTooLong)): 65,507 bytes over IPv4 and 65,527 over IPv6, or less by a
//! setting. Nothing is sent twice and nothing is put in order: that a message was sent says that it was given to the
//! operating system.
//!
//! Datagrams longer than the network's own, some 1,400 bytes, travel in fragments, and are lost if one of those is. So
//! protocols keep theirs shorter.

mod builder;
mod client;
mod connector;
mod datagram;
mod endpoint;
mod endpoint_io;
mod hub;
mod listener;
mod options;
mod outgoing;
mod peer;
mod probe;
mod reader;
mod settings;
mod socket;
mod stats;
mod table;
mod turns;
mod units;

use std::net::{IpAddr, SocketAddr};

pub use self::{
    builder::UdpListenerBuilder,
    client::UdpClient,
    connector::UdpConnector,
    datagram::Datagram,
    endpoint::UdpEndpoint,
    endpoint_io::UdpEndpointIo,
    listener::UdpListener,
    peer::{UdpInfo, UdpPeer},
    settings::{Admit, Evicted, Eviction, FirstDatagram, Overflow, ProbePolicy},
    stats::{UdpMonitor, UdpStats},
};

/// The two bits of explicit congestion notification in a datagram's IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The sender takes no part in it, or the operating system does not say.
    #[default]
    NotCapable,
    /// ECT(0): the sender takes part.
    Ect0,
    /// ECT(1): the sender takes part.
    Ect1,
    /// CE: a router on the way was congested.
    Congested,
}

impl Ecn {
    const fn from_quinn(ecn: Option<quinn_udp::EcnCodepoint>) -> Self {
        match ecn {
            None => Self::NotCapable,
            Some(quinn_udp::EcnCodepoint::Ect0) => Self::Ect0,
            Some(quinn_udp::EcnCodepoint::Ect1) => Self::Ect1,
            Some(quinn_udp::EcnCodepoint::Ce) => Self::Congested,
        }
    }
}

/// The longest payload that IPv4 has room for: 65,535 bytes less its header and UDP's.
const LONGEST_V4: usize = 65_507;
/// The longest payload that IPv6 has room for: its header does not count.
const LONGEST_V6: usize = 65_527;

/// The longest datagram that can be sent to `peer`.
fn longest_to(peer: SocketAddr) -> usize {
    match peer.ip().to_canonical() {
        IpAddr::V4(_) => LONGEST_V4,
        IpAddr::V6(_) => LONGEST_V6,
    }
}
