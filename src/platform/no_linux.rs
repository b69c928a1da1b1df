//! Options of sockets where the operating system is not Linux.

use std::io;

use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{SockRef, Socket};

/// `true` where accepted sockets inherit every option from the socket that listens.
pub(crate) const INHERITS_OPTIONS: bool = false;

/// `true` if a batch of datagrams that is not full means that the socket is empty.
pub(crate) const RECEIVES_BATCHES: bool = false;

/// Has no effect. The operating system decides how many unsent bytes it takes.
pub(crate) fn limit_unsent(_: &SockRef<'_>, _: u32) -> io::Result<()> {
    Ok(())
}

/// Returns the state of a socket. The operating system decides about fragments.
pub(crate) fn fragmenting_state(socket: &Socket) -> io::Result<UdpSocketState> {
    UdpSocketState::new(UdpSockRef::from(socket))
}
