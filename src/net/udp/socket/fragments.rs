//! Setup of a socket whose datagrams may be fragmented.
//!
//! quinn-udp sets up sockets for QUIC, which forbids fragments: a datagram above the network's
//! limit is then refused. On Linux, quinn-udp therefore sets up a substitute socket, and this
//! module sets the other options that its state relies on (design.md: Why is quinn-udp set
//! up with another socket?).

use std::io;

use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::Socket;

/// Returns the state of a socket whose datagrams the operating system may send in fragments.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn state_with_fragments(socket: &Socket) -> io::Result<UdpSocketState> {
    use nix::sys::socket::{SetSockOpt, sockopt};

    let local = socket.local_addr()?;
    let v6 = local.is_ipv6();
    // a socket with a single address has a known destination
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
    // optional: an IPv6 socket needs the first for IPv4 peers only, and a kernel without the
    // second returns each datagram separately
    for result in [
        socket.set_recv_tos_v4(true),
        sockopt::UdpGroSegment
            .set(socket, &true)
            .map_err(Into::into),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "cannot set an option of a UDP socket");
        }
    }
    let domain = if v6 {
        socket2::Domain::IPV6
    } else {
        socket2::Domain::IPV4
    };
    let substitute = Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    UdpSocketState::new(UdpSockRef::from(&substitute))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn state_with_fragments(socket: &Socket) -> io::Result<UdpSocketState> {
    UdpSocketState::new(UdpSockRef::from(socket))
}
