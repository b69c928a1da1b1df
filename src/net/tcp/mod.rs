//! TCP.

mod connector;
mod listener;
mod options;
mod race;

use std::{io, net::SocketAddr};

use getty_layers::{Address, Connection, Endpoints, TransportKind};
use tokio::net::TcpStream;

pub use self::{
    connector::TcpConnector,
    listener::{TcpListener, TcpListenerBuilder},
    options::Keepalive,
};

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
