//! One handler on TCP and on `/ws` of an axum application.
//!
//! Devices connect over TCP, and browsers over WebSocket to an existing axum application. Both
//! must reach the same handler and the same state.
//!
//! # Program
//!
//! ```
//! use std::{net::SocketAddr, sync::Arc};
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use axum::extract::{ConnectInfo, Request, State as AppState};
//! use axum::{body::Body, response::Response, routing::{any, get}};
//! use getty::{BoxError, CodecLayer, Endpoints, ServiceBuilder, SessionLayer, State};
//! use getty::{codec::{Lines, Text}, handle_with};
//! use getty::{net::TcpListener, ws::{self, Messages, WsLayer, WsUpgrader}};
//! use hyper_util::rt::TokioIo;
//! # use getty::{Layer, NoReply, handle, layers::CorrelateLayer, net::TcpConnector};
//! # use getty::ws::WsConnectLayer;
//!
//! type Io = TokioIo<hyper::upgrade::Upgraded>;
//!
//! async fn upgrade(
//!     AppState(upgrader): AppState<WsUpgrader<Io>>,
//!     ConnectInfo(peer): ConnectInfo<SocketAddr>,
//!     mut request: Request,
//! ) -> Response {
//!     let upgraded = hyper::upgrade::on(&mut request);
//!     let io = async { upgraded.await.map(TokioIo::new) };
//!     let endpoints = Endpoints { peer: peer.into(), ..Endpoints::default() };
//!     upgrader.upgrade(&request, endpoints, io).await.map(Body::from)
//! }
//!
//! type Visits = Arc<AtomicUsize>;
//!
//! fn greet(name: String, State(visits): State<Visits>) -> String {
//!     format!("hello {name}, visit {}", visits.fetch_add(1, Relaxed) + 1)
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let handler = handle_with::<_, _, String, String, _>(Visits::default(), greet);
//!     let lines = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .service(handler.clone());
//!     let messages = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Text::new()))
//!         .layer(SessionLayer::new())
//!         .service(handler);
//!
//!     let (upgrader, upgrades) = ws::upgrades(&WsLayer::new().with_messages(Messages::Text));
//!     let app = axum::Router::new()
//!         .route("/", get(async || "the pages of the application"))
//!         .route("/ws", any(upgrade))
//!         .with_state(upgrader)
//!         .into_make_service_with_connect_info::<SocketAddr>();
//!
//!     let tcp = TcpListener::bind("127.0.0.1:0").await?;
//!     let http = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!     let (devices, browsers) = (tcp.local_addr()?, http.local_addr()?);
//!     let sessions = getty::serve(tcp, lines)
//!         .and(getty::serve(upgrades, messages))
//!         .with_graceful_shutdown(getty::shutdown_signal());
//!     let pages = axum::serve(http, app).with_graceful_shutdown(getty::shutdown_signal());
//!     tokio::spawn(async { tokio::join!(sessions.into_future(), pages.into_future()) });
//!
//!     assert_eq!(talk(devices, ["ada"]).await?, ["hello ada, visit 1"]);
//!     assert_eq!(talk_over_websocket(browsers, "bob").await?, "hello bob, visit 2");
//!     Ok(())
//! }
//! # async fn talk_over_websocket(address: SocketAddr, name: &str) -> Result<String, BoxError> {
//! #     let url = format!("ws://{address}/ws");
//! #     let connector = WsConnectLayer::new()
//! #         .with_messages(Messages::Text)
//! #         .layer(TcpConnector::new());
//! #     let (session, _task) = getty::connect(connector, url, |link| {
//! #         ServiceBuilder::new()
//! #             .layer(CodecLayer::new(Text::new()))
//! #             .layer(CorrelateLayer::in_order())
//! #             .layer(link)
//! #             .layer(SessionLayer::new())
//! #             .service(handle(|_: String| NoReply))
//! #     })
//! #     .await?;
//! #     Ok(session.request(name.to_owned()).await?)
//! # }
//! # async fn talk<const N: usize>(
//! #     address: std::net::SocketAddr,
//! #     lines: [&str; N],
//! # ) -> std::io::Result<Vec<String>> {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     let mut stream = tokio::net::TcpStream::connect(address).await?;
//! #     stream.write_all((lines.join("\n") + "\n").as_bytes()).await?;
//! #     stream.shutdown().await?;
//! #     let mut received = String::new();
//! #     stream.read_to_string(&mut received).await?;
//! #     Ok(received.lines().map(str::to_owned).collect())
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `handler.clone()`: clones share the state. The stacks differ in their codec only: a
//!   message is a line on TCP and a text message on WebSocket.
//! - `ws::upgrades`: the upgrader answers axum's requests, and the listener passes the upgraded
//!   connections to `serve`. The stack behind it contains no `WsLayer`.
//! - `endpoints`: a request does not contain the address of its peer, so the function passes it
//!   on.
//! - `.and(..)`: one shutdown for both listeners. axum waits for the same signal. `join!` ends
//!   when the sessions are drained and the requests are answered.
//!
//! # Limits and errors
//!
//! - axum's middleware runs before the upgrade. Pass its results to the session with an
//!   [accept hook](crate::ws::WsLayer::with_accept).
//! - An upgrade is refused with 503 after the shutdown, or while too many connections wait for
//!   the stack.
//! - Browsers send an `Origin` header. The accept hook should check it, because other sites can
//!   open a WebSocket to `/ws`.
//! - Without axum put a [`WsLayer`](crate::ws::WsLayer) outside `CodecLayer` and use a
//!   `TcpListener`.
