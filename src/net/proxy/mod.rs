//! Connectors for clients that dial through a SOCKS 5 or HTTP proxy.
//!
//! [`Socks5ConnectLayer`] and [`HttpConnectLayer`] wrap a connector that reaches the proxy. The
//! new connector accepts the target in all forms of a [`ProxyTarget`] and returns the same
//! `Connection<T>` once the proxy has connected to it. It works with
//! [`connect`](crate::connect()) and [`Client`](crate::Client) like any other.
//!
//! The PROXY protocol, with which a load balancer sends the address of its client, is in
//! [`proxy`](crate::proxy).
//!
//! ```
//! use getty::{
//!     BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec,
//!     net::{TcpConnector, proxy::{Socks5ConnectLayer, Via}},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let proxy = listener.local_addr()?;
//! # tokio::spawn(async move {
//! #     let (mut io, _) = listener.accept().await?;
//! #     let mut request = [0; 31];
//! #     io.read_exact(&mut request[..4]).await?;
//! #     io.write_all(&[5, 2]).await?;
//! #     io.read_exact(&mut request[..13]).await?;
//! #     assert_eq!(&request[..13], b"\x01\x04user\x06secret");
//! #     io.write_all(&[1, 0]).await?;
//! #     io.read_exact(&mut request[..18]).await?;
//! #     assert_eq!(&request[..18], b"\x05\x01\x00\x03\x0bexample.com\x1b\x58");
//! #     io.write_all(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00welcome\n").await?;
//! #     io.read(&mut request).await
//! # });
//! let connector = ServiceBuilder::new()
//!     .layer(Socks5ConnectLayer::new(proxy).with_login("user", "secret"))
//!     .service(TcpConnector::new());
//! let (answers, mut answer) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = getty::connect(connector, "example.com:7000", |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Lines::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             let answers = answers.clone();
//!             async move {
//!                 answers.send(request.into_message()).await?;
//!                 Ok::<_, BoxError>(None::<String>)
//!             }
//!         })
//! })
//! .await?;
//!
//! // the first bytes of the server, which may follow the proxy's reply at once
//! assert_eq!(answer.recv().await.as_deref(), Some("welcome"));
//! // the socket's peer is the proxy
//! assert_eq!(session.peer_addr().socket_addr(), Some(proxy));
//! let via: Via = session.get().expect("dialed through a proxy");
//! assert_eq!(via.target().to_string(), "example.com:7000");
//! # Ok(())
//! # }
//! ```
//!
//! # Order of layers
//!
//! The layer belongs directly around the connector that reaches the proxy. Layers that
//! protect or frame the connection to the target are outside, so that their bytes pass through
//! the proxy:
//!
//! | layers from the outside | connection |
//! |---|---|
//! | `TlsConnectLayer`, proxy layer, `TcpConnector` | TLS to the target, through the proxy |
//! | proxy layer, `TlsConnectLayer`, `TcpConnector` | TLS to the proxy; plain bytes from there |
//! | `TlsConnectLayer`, proxy layer, `TlsConnectLayer`, `TcpConnector` | TLS to both |
//! | `WsConnectLayer`, any of these | WebSocket to the target |
//! | proxy layer, proxy layer, `TcpConnector` | a chain; the inner proxy connects to the outer |
//!
//! Each `TlsConnectLayer` verifies the certificate for the target that it is called with.
//! Inside the proxy layer this is the proxy's address, outside it is the target. If the layer
//! is inside by mistake, the dial through a proxy without TLS fails with a `TlsError`. With a
//! proxy that supports TLS the dial succeeds, but the proxy **reads and may change all bytes**.
//! Such a connection must not be taken for a protected one. The handle's transport is therefore
//! [`Other("proxy")`](crate::TransportKind::Other), the `TlsInfo` of the proxy is removed, and
//! `WsConnectLayer` refuses `wss://`. A proxy layer outside `WsConnectLayer` does not compile.
//!
//! ```
//! # #[cfg(feature = "tls")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), getty::BoxError> {
//! use getty::{
//!     ServiceBuilder,
//!     net::{self, proxy::{HttpConnectLayer, Via}},
//!     tls::{ClientTls, TlsConnectLayer, TlsInfo},
//! };
//! # use getty::{Listener, tls::{Pem, ServerTls, TlsLayer}};
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use getty::tower::ServiceExt;
//!
//! # let made = rcgen::generate_simple_self_signed(["example.com".to_owned()])?;
//! # let chain = Pem::inline(made.cert.pem());
//! # let key = Pem::inline(made.signing_key.serialize_pem());
//! # let roots = chain.clone();
//! # let server = ServiceBuilder::new()
//! #     .layer(TlsLayer::new(ServerTls::new(chain, key).load()?))
//! #     .layer(getty::CodecLayer::new(getty::codec::Lines::new()))
//! #     .layer(getty::SessionLayer::new())
//! #     .service_fn(|line: getty::Request<String>| async move {
//! #         Ok::<_, getty::BoxError>(line.into_message())
//! #     });
//! let (mut listener, proxy) = net::memory(64 * 1024);
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # std::thread::spawn(move || runtime.block_on(async move {
//! #     let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
//! #     let mut connection = accepted.expect("accepted");
//! #     let mut request = [0; 59];
//! #     connection.transport_mut().read_exact(&mut request).await.expect("a request");
//! #     assert_eq!(&request, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n");
//! #     let response = b"HTTP/1.1 200 OK\r\n\r\n";
//! #     connection.transport_mut().write_all(response).await.expect("a response");
//! #     server.oneshot(connection).await.expect("a handshake");
//! # }));
//! let tls = ClientTls::new().with_roots(roots).load()?;
//! let connector = ServiceBuilder::new()
//!     .layer(TlsConnectLayer::new(tls)) // verifies the certificate of example.com
//!     .layer(HttpConnectLayer::new(())) // `()` is the target of a memory connector
//!     .service(proxy);
//! let connection = connector.oneshot("example.com:443").await?;
//! assert!(connection.handle().get::<TlsInfo>().is_some());
//! assert!(connection.handle().get::<Via>().is_some());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tls"))]
//! # fn main() {}
//! ```
//!
//! # Names
//!
//! The proxy resolves the target's name, and this machine sends no query for it. The name may
//! be known to the proxy's network only. An observer of the local network does not learn it.
//! [`with_local_dns`](Socks5ConnectLayer::with_local_dns) resolves it on this machine.
//!
//! # Failures
//!
//! A dial fails with a [`ProxyConnectError`]. A client retries all failures by default; its
//! retry policy can tell a wrong configuration from a server that is down:
//!
//! ```
//! use getty::{OpenError, client::{Decision, Ended}, net::proxy::ProxyConnectError};
//!
//! fn decide(ended: &Ended) -> Decision {
//!     let Ended::Open(OpenError::Connect(error)) = ended else {
//!         return Decision::Retry;
//!     };
//!     match error.downcast_ref() {
//!         Some(ProxyConnectError::AuthRequired | ProxyConnectError::LoginRejected) => {
//!             Decision::Stop
//!         }
//!         _ => Decision::Retry,
//!     }
//! }
//! # let rejected = OpenError::Connect(ProxyConnectError::LoginRejected.into());
//! # assert_eq!(decide(&Ended::Open(rejected)), Decision::Stop);
//! # let down = OpenError::Connect(ProxyConnectError::Unreachable { code: 5 }.into());
//! # assert_eq!(decide(&Ended::Open(down)), Decision::Retry);
//! # let _ = getty::Client::<()>::builder().with_retry_policy(decide);
//! ```
//!
//! # Costs
//!
//! A dial costs one or two round trips to an HTTP proxy and two or three to a SOCKS proxy, and
//! the proxy's dial. The replies are read in small pieces, so that no byte of the target is
//! read ahead. Once the session is open the layer costs nothing. Variables of the environment
//! such as `HTTPS_PROXY` are not read. UDP and incoming connections of SOCKS are not supported.
//! A password is the only kind of login.

mod connect;
mod error;
mod http;
mod layer;
mod login;
mod socks5;
mod target;
mod via;

pub use self::{
    connect::{ProxyConnect, ProxyConnecting},
    error::ProxyConnectError,
    layer::{HttpConnectLayer, Socks5ConnectLayer},
    target::{ProxyTarget, ProxyTargetError},
    via::{ProxyKind, Via},
};
