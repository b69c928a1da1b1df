//! An address that answers no dial.

use std::net::{Ipv4Addr, SocketAddr};

use getty::net::TcpListener;
use socket2::{Domain, Socket, Type};

/// Returns an address that answers no dial because the listener's backlog is full.
pub(crate) async fn silent() -> (TcpListener, Vec<Socket>, SocketAddr) {
    let builder = TcpListener::builder().with_backlog(0);
    let listener = builder.bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..8).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // The first takes the only slot. The handshakes of the others will not be answered.
        let _ = socket.connect(&address.into());
        socket
    });
    let waiting = waiting.collect();
    (listener, waiting, address)
}
