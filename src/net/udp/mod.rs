//! UDP: one session per peer, one session for a whole socket, and a connected client.
//!
//! | | session | messages | opened by |
//! |---|---|---|---|
//! | [`UdpListener`] | one peer address and local address | decoded by the codec | the first datagram |
//! | [`UdpEndpoint`] | the whole socket | [`Datagram`]s with their peer | the bind |
//! | [`UdpConnector`] | one socket with one peer | decoded by the codec | the dial |
//!
//! One datagram is one message, in both directions. A datagram that cannot be decoded is
//! skipped and counted unless [`SessionLayer::with_bad_messages_skipped`] is set to close the
//! session. Sending a message that exceeds a datagram fails with [`MessageTooLong`], which
//! holds the size. The limit is 65,507 bytes over IPv4 and 65,527 bytes over IPv6, or less by a
//! setting.
//!
//! Datagrams are neither retransmitted nor put in order. A sent message has been passed to the
//! operating system, but may be lost.
//!
//! Datagrams above the network's limit, often 1,472 bytes, are sent in fragments on Linux and
//! Android. The datagram is lost if one fragment is lost. Most other systems refuse such a
//! datagram. Protocols should therefore keep datagrams shorter.
//!
//! [`SessionLayer::with_bad_messages_skipped`]: crate::SessionLayer::with_bad_messages_skipped
//! [`MessageTooLong`]: crate::session::MessageTooLong
#![allow(clippy::module_inception, reason = "a folder's main type has its name")]

// (design.md: Why do some folders contain one file for each idea?)
mod client;
mod endpoint;
mod listener;
mod probe;
mod socket;
mod stats;

pub use self::{
    client::{UdpClient, UdpConnector},
    endpoint::{Datagram, UdpEndpoint, UdpEndpointIo},
    listener::{
        Evicted, Eviction, FirstDatagram, UdpAdmission, UdpInfo, UdpListener, UdpListenerBuilder,
        UdpOverflow, UdpPeer,
    },
    probe::ProbePolicy,
    socket::Ecn,
    stats::{UdpMonitor, UdpStats},
};
