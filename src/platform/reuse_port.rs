//! Several sockets with one port.

use std::io;

use socket2::Socket;

/// Sets `SO_REUSEPORT`.
pub(crate) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}
