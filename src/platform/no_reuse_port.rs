//! Several sockets with one port, where the operating system has no option for it.

use std::io;

use socket2::Socket;

/// Fails with [`Unsupported`](io::ErrorKind::Unsupported).
pub(crate) fn set_reuse_port(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
