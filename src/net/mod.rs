//! Listeners and connectors: the sources of connections.
//!
//! A server accepts connections from a [`Listener`]. A client opens them with a connector. A
//! connector is a [`tower::Service`] from a target to a [`Connection`](crate::Connection), with
//! [`ConnectError`] as its error. Connectors are cheap to clone and always ready. tower's
//! middleware such as `timeout`, `retry` and `map_request` can wrap them. Each dial resolves
//! its target again, and fails after the connect timeout, which is 3 s by default. The layers
//! in [`proxy`] wrap a connector and dial through SOCKS 5 and HTTP proxies.
//!
//! | transport | listener | connector | target |
//! |---|---|---|---|
//! | TCP | [`TcpListener`], tokio's | [`TcpConnector`] | `"host:port"`, `SocketAddr`, ... |
//! | Unix stream | `UnixListener`, tokio's | `UnixConnector` | a path |
//! | UDP | [`UdpListener`], [`UdpEndpoint`] | [`UdpConnector`] | as for TCP |
//! | within the process | [`MemoryListener`] | [`MemoryConnector`] | `()`: its own listener |
//! | any other | [`listener_fn`] | [`service_fn`](crate::service_fn) | any |
//!
//! ```
//! use getty::net::{Listener, TcpConnector, TcpListener};
//! use getty::tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), getty::BoxError> {
//! let mut listener = TcpListener::bind("127.0.0.1:0").await?;
//! let target = listener.local_addr()?;
//!
//! let dialed = TcpConnector::new().oneshot(target).await?;
//! let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await?;
//! assert_eq!(dialed.handle().local_addr(), accepted.handle().peer_addr());
//! # Ok(())
//! # }
//! ```
//!
//! # Sockets that are bound already
//!
//! A listener of the standard library, such as one that was inherited from a service manager,
//! is converted with `try_from`:
//!
//! | socket | listener |
//! |---|---|
//! | `std::net::TcpListener` | `TcpListener::try_from` |
//! | `std::os::unix::net::UnixListener` | `UnixListener::try_from` |
//! | `std::net::UdpSocket` | `UdpListener::try_from`, [`UdpListenerBuilder::listen_on`] |
//! | the same | `UdpEndpoint::try_from`, for one session for all peers |
//!
//! ```
//! use getty::{BoxError, CodecLayer, NoReply, ServiceBuilder, SessionLayer, codec::Text, handle};
//! use getty::net::UdpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
//! let app = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Text::new()))
//!     .layer(SessionLayer::new())
//!     .service(handle(|_: String| NoReply));
//! let server = getty::serve(UdpListener::try_from(socket)?, app);
//! # let _ = server;
//! # Ok(())
//! # }
//! ```

mod bind;
mod connect;
mod listener;
mod listener_fn;
mod memory;
pub mod proxy;
mod socket_options;
mod tcp;
mod udp;
#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub use self::unix::{UnixConnector, UnixListener};
pub use self::{
    connect::{ConnectError, Connecting},
    listener::Listener,
    listener_fn::{ListenerFn, listener_fn},
    memory::{MemoryConnector, MemoryListener, memory},
    tcp::{Keepalive, TcpConnector, TcpListener, TcpListenerBuilder},
    udp::{
        Datagram, Ecn, Evicted, Eviction, FirstDatagram, ProbePolicy, UdpAdmission, UdpClient,
        UdpConnector, UdpEndpoint, UdpEndpointIo, UdpInfo, UdpListener, UdpListenerBuilder,
        UdpMonitor, UdpOverflow, UdpPeer, UdpStats,
    },
};
