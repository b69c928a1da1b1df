//! Socket options that TCP and UDP share.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::platform::set_reuse_port;

/// Options of a socket that is bound to an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindOptions {
    /// `SO_REUSEADDR`.
    pub(super) reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub(super) reuse_port: bool,
    /// `IPV6_V6ONLY`. `None` leaves the operating system's default.
    pub(super) only_v6: Option<bool>,
}

impl BindOptions {
    pub(super) const fn new() -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            only_v6: None,
        }
    }

    /// Creates a non-blocking socket of the address family of `address`, which is not bound yet.
    ///
    /// # Errors
    ///
    /// The operating system's, and [`Unsupported`](io::ErrorKind::Unsupported) where it has no
    /// `SO_REUSEPORT`.
    pub(super) fn socket(
        &self,
        address: SocketAddr,
        kind: Type,
        protocol: Protocol,
    ) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if self.reuse_address {
            socket.set_reuse_address(true)?;
        }
        if self.reuse_port {
            set_reuse_port(&socket)?;
        }
        if let (Some(only_v6), true) = (self.only_v6, address.is_ipv6()) {
            socket.set_only_v6(only_v6)?;
        }
        Ok(socket)
    }
}

/// Sizes of a socket's buffers in the operating system, in bytes. `None` leaves its default.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferSizes {
    /// `SO_SNDBUF`.
    pub(super) send: Option<usize>,
    /// `SO_RCVBUF`.
    pub(super) recv: Option<usize>,
}

impl BufferSizes {
    pub(super) const fn new() -> Self {
        Self {
            send: None,
            recv: None,
        }
    }

    /// Sets the sizes on `socket`. TCP needs them before the handshake, which announces the window.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(size) = self.send {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.recv {
            socket.set_recv_buffer_size(size)?;
        }
        Ok(())
    }
}
