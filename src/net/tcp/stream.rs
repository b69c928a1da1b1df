//! Connections over connected TCP sockets.

use std::{io, net::SocketAddr, time::Duration};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Returns `true` if both ends of `stream` are the same socket, after setting it to be closed
/// by a reset. An orderly close would keep the port occupied for a minute.
pub(super) fn resets_self_connect(
    stream: &TcpStream,
    local: &io::Result<SocketAddr>,
    peer: SocketAddr,
) -> bool {
    let is_self = local.as_ref().is_ok_and(|local| *local == peer);
    if is_self {
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    is_self
}

/// Returns the connection over `stream`. Its local address is unknown if the peer has already
/// reset it. The next read then returns the error.
pub(super) fn connection(
    stream: TcpStream,
    local: io::Result<SocketAddr>,
    peer: SocketAddr,
) -> Connection<TcpStream> {
    let local = local.map_or(Address::Unknown, Address::Ip);
    Connection::with_endpoints(
        stream,
        Endpoints::new(TransportKind::Tcp, local, Address::Ip(peer)),
    )
}
