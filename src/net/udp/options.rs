//! What a socket is to say of each datagram.
//!
//! quinn-udp sets its sockets up for QUIC, which wants no fragments: what is longer than the network's datagrams is then
//! refused. So on Linux it is shown another socket, and ours is told the rest of what its state relies on.

use std::io;

use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::Socket;

/// The state of a socket whose datagrams the operating system may send in fragments.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn state_with_fragments(socket: &Socket) -> io::Result<UdpSocketState> {
    use nix::sys::socket::{SetSockOpt, sockopt};

    let local = socket.local_addr()?;
    let v6 = local.is_ipv6();
    // of a socket with one address it is known where a datagram came to
    if local
        .as_socket()
        .is_some_and(|local| local.ip().is_unspecified())
    {
        if v6 {
            sockopt::Ipv6RecvPacketInfo.set(socket, &true)?;
        } else {
            sockopt::Ipv4PacketInfo.set(socket, &true)?;
        }
    }
    if v6 {
        socket.set_recv_tclass_v6(true)?;
    }
    // of a socket of IPv6 they concern what comes over IPv4; and a kernel that cannot join datagrams gives each alone
    for told in [
        socket.set_recv_tos_v4(true),
        sockopt::UdpGroSegment
            .set(socket, &true)
            .map_err(Into::into),
    ] {
        if let Err(error) = told {
            tracing::debug!(%error, "a setting of a UDP socket cannot be had");
        }
    }
    let domain = if v6 {
        socket2::Domain::IPV6
    } else {
        socket2::Domain::IPV4
    };
    let stand_in = Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    UdpSocketState::new(UdpSockRef::from(&stand_in))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn state_with_fragments(socket: &Socket) -> io::Result<UdpSocketState> {
    UdpSocketState::new(UdpSockRef::from(socket))
}
