//! Options of sockets on Linux and Android.

use std::io;

use nix::sys::socket::{SetSockOpt, sockopt};
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// `true` where accepted sockets inherit every option from the socket that listens.
pub(crate) const INHERITS_OPTIONS: bool = true;

/// `true` if a batch of datagrams that is not full means that the socket is empty, as with
/// recvmmsg.
pub(crate) const RECEIVES_BATCHES: bool = true;

/// Sets the maximum number of unsent bytes in the kernel.
pub(crate) fn limit_unsent(socket: &SockRef<'_>, bytes: u32) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)
}

/// Returns the state of a socket whose datagrams the operating system may send in fragments.
///
/// quinn-udp sets up sockets for QUIC, which forbids fragments: a datagram above the network's
/// limit is then refused. So quinn-udp sets up a substitute socket, and this function sets the
/// other options that its state relies on (design.md: Why is quinn-udp set up with another
/// socket?).
pub(crate) fn fragmenting_state(socket: &Socket) -> io::Result<UdpSocketState> {
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
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let substitute = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    UdpSocketState::new(UdpSockRef::from(&substitute))
}
