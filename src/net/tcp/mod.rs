//! TCP.

mod connector;
mod listener;
mod options;
mod race;

use std::{io, net::SocketAddr, time::Duration};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use socket2::SockRef;
use tokio::net::TcpStream;

pub use self::{
    connector::TcpConnector,
    listener::{TcpListener, TcpListenerBuilder},
    options::Keepalive,
};

/// Returns `true` if both ends of `stream` are the same socket, after setting it to be closed by a
/// reset. An orderly close would keep the port occupied for a minute.
fn resets_self_connect(
    stream: &TcpStream,
    local: &io::Result<SocketAddr>,
    peer: SocketAddr,
) -> bool {
    let itself = local.as_ref().is_ok_and(|local| *local == peer);
    if itself {
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    itself
}

/// The connection that runs over `stream`. An end that the peer has already reset may have lost its local address;
/// reading from it tells the rest.
fn connection(
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
