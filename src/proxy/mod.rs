//! PROXY protocol: the addresses of clients behind load balancers.
//!
//! A load balancer connects to the server on behalf of its clients, so the socket's peer is the
//! load balancer. With the [PROXY protocol] it sends the addresses of the client's connection
//! before the first byte: as a line of text (version 1) or in binary with further values
//! (version 2).
//!
//! [`ProxyProtocolLayer`] receives this header. [`ConnectionHandle::peer_addr`] then returns the
//! client's address, and [`socket_peer_addr`] the proxy's. The attribute [`ProxyInfo`] of the
//! handle has the other values of the header. [`ProxyProtocolConnectLayer`] sends headers
//! around any connector.
//!
//! A client that dials through a SOCKS or HTTP proxy needs [`net::proxy`](crate::net::proxy)
//! instead.
//!
//! ```
//! use getty::layers::access::{AccessList, IpNet};
//! use getty::proxy::{ProxyProtocolConnectLayer, ProxyFor, ProxyProtocolLayer};
//! use getty::{BoxError, CodecLayer, ServiceBuilder, Session, SessionLayer};
//! use getty::{codec::Lines, handle, net::{TcpConnector, TcpListener}};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use getty::tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let proxies = AccessList::deny_all().with_allowed(["127.0.0.0/8".parse::<IpNet>()?]);
//! let app = ServiceBuilder::new()
//!     .layer(ProxyProtocolLayer::from_sources(proxies))
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service(handle(|_: String, session: Session<String>| session.peer_addr().to_string()));
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! tokio::spawn(async move { getty::serve(listener, app).await });
//!
//! let connector = ServiceBuilder::new()
//!     .layer(ProxyProtocolConnectLayer::v2())
//!     .service(TcpConnector::new());
//! let (client, service) = ("192.0.2.7:50000".parse()?, "198.51.100.1:443".parse()?);
//! let target = ProxyFor::new(address, getty::Address::Ip(client), getty::Address::Ip(service));
//! let mut io = connector.oneshot(target).await?.into_parts().0;
//! io.write_all(b"who am I?\n").await?;
//! io.shutdown().await?;
//! let mut answer = String::new();
//! io.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "192.0.2.7:50000\n");
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//!
//! From the outermost layer inwards:
//!
//! 1. [`HandshakeTimeoutLayer`]: the header counts as a part of the handshake;
//! 2. tower's `concurrency_limit`, which limits all connections together;
//! 3. [`ProxyProtocolLayer`];
//! 4. [`TraceLayer`] and `MetricsLayer`;
//! 5. [`AccessLayer`] and [`PeerLimitLayer`], which see the client's address from here on;
//! 6. `TlsLayer`, because the header comes before the TLS handshake;
//! 7. `WsLayer`, [`CodecLayer`](crate::CodecLayer) and the layers inside them.
//!
//! Layers outside [`ProxyProtocolLayer`] see the proxy's address. A [`TraceLayer`] there shows
//! it for the whole life of the connection, and a [`PeerLimitLayer`] there counts all clients
//! as one peer. Connections that this layer refuses are not in the metrics of a `MetricsLayer`
//! inside.
//!
//! # Trust
//!
//! A peer that may send a header can choose its address and pass every list and limit. The
//! layer therefore takes a list of trusted proxies and never detects headers:
//!
//! - A trusted proxy must send a valid header. Otherwise the connection is refused.
//! - Other peers are refused. With [`Untrusted::Direct`] they are served without a header. One
//!   that they send reaches the codec as data.
//! - A load balancer that keeps the client's address in the socket is not the socket's peer.
//!   Its headers are refused, so disable one of the two.
//! - The values of [`ProxyInfo`] are as trustworthy as the proxy. Some proxies relay a header
//!   that their client has sent. It must follow the proxy's header. The codec then receives it
//!   as data.
//!
//! # Settings of proxies
//!
//! | proxy | setting |
//! |---|---|
//! | HAProxy | `server app 10.0.1.1:7000 send-proxy-v2 check` |
//! | HAProxy, with a checksum and names | `send-proxy-v2 proxy-v2-options crc32c,unique-id,authority` |
//! | HAProxy, which terminates TLS | `send-proxy-v2-ssl`, or `send-proxy-v2-ssl-cn` for certificates |
//! | nginx, module `stream` | `proxy_protocol on;` |
//! | AWS Network Load Balancer | attribute `proxy_protocol_v2.enabled` of the target group, without client IP preservation |
//! | Google's proxy Network Load Balancer | `--proxy-header=PROXY_V1` of the target proxy and of the health check |
//!
//! The repository's `docs/load-balancers.md` has whole configurations, idle timeouts of proxies
//! and the steps of draining.
//!
//! # Health checks
//!
//! - A check that connects and closes is a [`ProxyError::Probe`]. It closes as
//!   [`PeerClosed`](crate::CloseReason::PeerClosed) and is logged at `DEBUG`.
//! - A check with a header may have the command LOCAL, or UNKNOWN in version 1. The session
//!   then keeps the addresses of the socket.
//! - A check that sends other bytes from a trusted address is refused with
//!   [`HeaderError::Missing`]. The proxy must send a header in its checks, only connect, or check
//!   a separate port without this layer.
//!
//! # Unix sockets
//!
//! A proxy that connects to a `UnixListener` has no IP address. With a list that denies by
//! default, [`with_unaddressed(Access::Allow)`](ProxyProtocolLayer::with_unaddressed) must be
//! set. The real addresses are those of the header. A client of a Unix socket of the proxy has
//! a path, or none; an [`AccessLayer`] inside may need the same setting for it.
//!
//! # X-Forwarded-For
//!
//! A proxy that relays HTTP sends the client's address in a header field. The accept hook of
//! `WsLayer` can set it for the layers inside:
//!
//! ```
//! # #[cfg(feature = "ws")]
//! # mod forwarded {
//! use std::net::{IpAddr, SocketAddr};
//!
//! use getty::ws::{WsLayer, WsRefusal, http::StatusCode};
//! use getty::{Address, ConnectionHandle};
//!
//! /// Accepts connections of one trusted proxy, which appends to the list.
//! fn behind_a_proxy() -> WsLayer {
//!     WsLayer::new().with_accept(|request, handle: ConnectionHandle| async move {
//!         let fields = request.headers().get_all("x-forwarded-for");
//!         let last = fields.iter().next_back().and_then(|field| field.to_str().ok());
//!         let client = last.and_then(|list| list.rsplit(',').next());
//!         let Some(ip) = client.and_then(|ip| ip.trim().parse::<IpAddr>().ok()) else {
//!             return Err(WsRefusal::new(StatusCode::BAD_REQUEST, "no client address"));
//!         };
//!         let local = handle.local_addr().clone();
//!         // the port is unknown
//!         let set = handle.set_real_addrs(local, Address::Ip(SocketAddr::new(ip, 0)));
//!         set.map_err(|error| WsRefusal::new(StatusCode::BAD_REQUEST, error.to_string()))
//!     })
//! }
//! # pub fn check() { behind_a_proxy(); }
//! # }
//! # #[cfg(feature = "ws")]
//! # forwarded::check();
//! ```
//!
//! An [`AccessLayer`] outside must admit the trusted proxies alone.
//!
//! # Costs
//!
//! A stack without these layers pays nothing: no byte per connection and no instruction per
//! message. A header of version 2 takes three reads, and one of version 1 some twenty, because
//! its length is unknown and nothing behind it may be read. Afterwards a connection holds the
//! addresses and the TLVs.
//!
//! Headers over UDP are not supported. These sessions keep the addresses of the datagrams.
//!
//! [PROXY protocol]: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
//! [`ConnectionHandle::peer_addr`]: crate::ConnectionHandle::peer_addr
//! [`socket_peer_addr`]: crate::ConnectionHandle::socket_peer_addr
//! [`HandshakeTimeoutLayer`]: crate::layers::HandshakeTimeoutLayer
//! [`TraceLayer`]: crate::layers::TraceLayer
//! [`AccessLayer`]: crate::layers::AccessLayer
//! [`PeerLimitLayer`]: crate::layers::PeerLimitLayer

mod connect;
mod error;
mod header;
mod info;
mod layer;
mod parse;
mod target;

pub use self::{
    connect::{ProxyProtocolConnect, ProxyProtocolConnectLayer, ProxyProtocolConnecting},
    error::{HeaderError, ProxyError},
    header::{ProxyCommand, ProxyVersion},
    info::{ProxyInfo, ProxySsl},
    layer::{ProxyProtocol, ProxyProtocolLayer, Untrusted},
    target::{ProxiedTarget, ProxyFor, ProxyHeader},
};
