//! Maximum payloads of datagrams.

use std::net::{IpAddr, SocketAddr};

/// Maximum payload over IPv4, in bytes: 65,535 less the headers of IPv4 and UDP.
const MAX_PAYLOAD_V4: usize = 65_507;
/// Maximum payload over IPv6, in bytes: 65,535 less the header of UDP.
const MAX_PAYLOAD_V6: usize = 65_527;

/// Maximum payload over any protocol, in bytes.
pub(crate) const MAX_PAYLOAD: usize = MAX_PAYLOAD_V6;

/// Returns `bytes`, reduced to [`MAX_PAYLOAD`].
pub(crate) const fn at_most_max_payload(bytes: usize) -> usize {
    if bytes < MAX_PAYLOAD {
        bytes
    } else {
        MAX_PAYLOAD
    }
}

/// Returns the maximum payload of a datagram to `peer`, in bytes.
pub(crate) fn max_payload_to(peer: SocketAddr) -> usize {
    match peer.ip().to_canonical() {
        IpAddr::V4(_) => MAX_PAYLOAD_V4,
        IpAddr::V6(_) => MAX_PAYLOAD_V6,
    }
}
