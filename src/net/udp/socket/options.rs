//! Creation and options of a UDP socket.

use std::{io, net::SocketAddr};

use socket2::{Protocol, SockRef, Type};

use super::socket::Socket;
use crate::net::socket_options::{BindOptions, BufferSizes};

/// Options of a UDP socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) bind: BindOptions,
    pub(crate) buffers: BufferSizes,
    /// The operating system may send long datagrams in fragments.
    pub(crate) fragments: bool,
}

impl SocketOptions {
    pub(crate) const fn new() -> Self {
        Self {
            bind: BindOptions::new(),
            buffers: BufferSizes::new(),
            fragments: true,
        }
    }

    /// Creates a socket that is bound to `address`.
    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = self.create(address)?;
        socket.bind(&address.into())?;
        self.wrap(socket)
    }

    /// Creates a socket that is bound to `local` and connected to `peer`. Returns it with the
    /// address of the peer as the operating system reports it.
    pub(crate) fn connect(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> io::Result<(Socket, SocketAddr)> {
        let socket = self.create(peer)?;
        socket.bind(&local.into())?;
        socket.connect(&peer.into())?;
        // the dialed address may stand for another one, such as 0.0.0.0 for this machine
        let peer = socket.peer_addr()?.as_socket().unwrap_or(peer);
        let socket = Socket::new(socket, true, self.fragments)?;
        Ok((socket, peer))
    }

    /// Wraps a socket that is bound and not connected.
    pub(crate) fn wrap(&self, socket: socket2::Socket) -> io::Result<Socket> {
        Socket::new(socket, false, self.fragments)
    }

    fn create(&self, address: SocketAddr) -> io::Result<socket2::Socket> {
        let socket = self.bind.socket(address, Type::DGRAM, Protocol::UDP)?;
        self.buffers.apply(&SockRef::from(&socket))?;
        Ok(socket)
    }
}
