//! Listeners and connectors: what makes the connections that a pipeline is given.
//!
//! A [`Listener`] accepts them, for a server; a connector dials them, for a client. Connectors are
//! [`tower::Service`]s of one shape: the request is the target, the response a [`Connection`](crate::Connection), the
//! error a [`ConnectError`], and a dial that takes longer than the connect timeout, 3 s by default, fails. They are
//! cheap to clone and always ready, and tower's middleware works on them: `timeout`, `retry`, `map_request`, ... What a
//! target stands for is looked up anew at each dial.
//!
//! | transport | listener | connector | target |
//! |---|---|---|---|
//! | TCP | [`TcpListener`], tokio's | [`TcpConnector`] | `"host:port"`, `("host", port)`, `SocketAddr`, ... |
//! | Unix stream | `UnixListener`, tokio's | `UnixConnector` | a path |
//! | UDP | [`UdpListener`], a session a peer; [`UdpEndpoint`], one for all | [`UdpConnector`] | as TCP's |
//! | within the process | [`MemoryListener`] | [`MemoryConnector`] | `()`, its own listener |
//!
//! ```
//! use getty::net::{Listener, TcpConnector, TcpListener};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), getty::BoxError> {
//! let mut listener = TcpListener::bind("127.0.0.1:0").await?;
//! let target = listener.local_addr()?;
//!
//! let dialled = TcpConnector::new().oneshot(target).await?;
//! let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await?;
//! assert_eq!(dialled.handle().local_addr(), accepted.handle().peer_addr());
//! # Ok(())
//! # }
//! ```

mod bind;
mod connect;
mod listener;
mod memory;
mod tcp;
mod udp;
#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub use self::unix::{UnixConnector, UnixListener};
pub use self::{
    connect::{ConnectError, Connecting},
    listener::Listener,
    memory::{MemoryConnector, MemoryListener, memory},
    tcp::{Keepalive, TcpConnector, TcpListener, TcpListenerBuilder},
    udp::{
        Admit, Datagram, Ecn, Evicted, Eviction, FirstDatagram, Overflow, ProbePolicy, UdpClient,
        UdpConnector, UdpEndpoint, UdpEndpointIo, UdpInfo, UdpListener, UdpListenerBuilder,
        UdpMonitor, UdpPeer, UdpStats,
    },
};
