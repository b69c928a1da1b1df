//! A keep-alive that the client chooses, and larger frames after the login.
//!
//! In MQTT the first packet is a CONNECT with the client's keep-alive in seconds. A server must
//! close a connection whose CONNECT does not arrive in time. Afterwards it closes a client that
//! is silent for one and a half times the keep-alive. A client that has not logged in should
//! not send large packets either.
//!
//! # Program
//!
//! The packets are lines here, so that the page is about times and sizes.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty::{BoxError, CodecLayer, Reply, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, layers::IdleTimeoutLayer, net::TcpListener};
//!
//! /// Time for the CONNECT to arrive whole.
//! const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
//! /// Maximum packet before and after the CONNECT, in bytes.
//! const MAX_CONNECT: usize = 256;
//! const MAX_PACKET: usize = 1 << 20;
//!
//! /// Attribute of a session that has sent its CONNECT.
//! #[derive(Clone)]
//! struct Connected;
//!
//! async fn handle(request: Request<String>) -> Result<Reply<String>, BoxError> {
//!     let session = request.session();
//!     let message = request.message();
//!     let (packet, argument) = message.split_once(' ').unwrap_or((message, ""));
//!     if packet == "CONNECT" && session.insert(Connected).is_none() {
//!         let idle = match argument.parse::<u16>()? {
//!             0 => Duration::MAX, // the client disables the keep-alive
//!             seconds => Duration::from_secs(seconds.into()) * 3 / 2,
//!         };
//!         IdleTimeoutLayer::set_activity(session, idle);
//!         session.set_max_frame(MAX_PACKET);
//!         return Ok(Reply::one("CONNACK".to_owned()));
//!     }
//!     if session.get::<Connected>().is_none() || packet == "CONNECT" {
//!         return Ok(Reply::none().and_close());
//!     }
//!     Ok(match packet {
//!         "PINGREQ" => Reply::one("PINGRESP".to_owned()),
//!         "PUBLISH" => Reply::one(format!("PUBACK {}", argument.len())),
//!         _ => Reply::none().and_close(),
//!     })
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let app = ServiceBuilder::new()
//!         .layer(IdleTimeoutLayer::activity(CONNECT_TIMEOUT))
//!         .layer(
//!             CodecLayer::new(Lines::new().with_max_length(MAX_CONNECT)).with_settable_max_frame(),
//!         )
//!         .layer(SessionLayer::new())
//!         .service_fn(handle);
//!
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     tokio::spawn(getty::serve(listener, app).into_future());
//!
//!     // A client may publish before it has the reply to its CONNECT.
//!     let large = format!("PUBLISH {}", "x".repeat(100_000));
//!     let received = talk(address, ["CONNECT 1", &large, "PINGREQ"]).await?;
//!     // The client is silent then, so the server closes the connection after 1.5 s.
//!     assert_eq!(received, ["CONNACK", "PUBACK 100000", "PINGRESP"]);
//!
//!     // Without a CONNECT nothing is allowed.
//!     assert!(talk(address, ["PINGREQ"]).await?.is_empty());
//!     Ok(())
//! }
//! # // The client does not end its direction: it waits until the server closes.
//! # async fn talk<const N: usize>(
//! #     address: std::net::SocketAddr,
//! #     lines: [&str; N],
//! # ) -> std::io::Result<Vec<String>> {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     let mut stream = tokio::net::TcpStream::connect(address).await?;
//! #     stream.write_all((lines.join("\n") + "\n").as_bytes()).await?;
//! #     let mut received = String::new();
//! #     stream.read_to_string(&mut received).await?;
//! #     Ok(received.lines().map(str::to_owned).collect())
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `IdleTimeoutLayer::activity(CONNECT_TIMEOUT)`: the deadline before the setting. Only whole
//!   messages count as activity, so a client that sends its CONNECT byte by byte is closed as
//!   well. The keep-alive of MQTT counts whole packets in the same way.
//! - `IdleTimeoutLayer::set_activity(session, idle)`: replaces the time for this session. Each
//!   kind of idle timeout has its function: [`set`], [`set_outbound`], [`set_any_traffic`] and
//!   [`set_activity`]. [`Duration::MAX`](std::time::Duration::MAX) disables the timeout.
//! - `with_settable_max_frame()`: permits [`set_max_frame`]. Codecs of other crates need
//!   [`with_frame_limit`] with a function.
//! - `session.set_max_frame(MAX_PACKET)`: the next frame may be larger, even if it arrived
//!   together with the CONNECT.
//!
//! # Limits and errors
//!
//! - The functions return `false` if the stack has no such layer. A test of the stack should
//!   assert that they return `true`.
//! - A setting belongs to one session. A client sets its own times in the same way, for example
//!   [`HeartbeatLayer::set_period`] when the server prescribes a keep-alive.
//! - Over WebSocket, `WsLayer::with_max_message` limits messages too, and does not change.
//! - Values may be set before the session opens, such as by the hook of an
//!   [`OnOpenLayer`](crate::layers::OnOpenLayer). While a session closes they have no effect.
//!
//! [`set`]: crate::layers::IdleTimeoutLayer::set
//! [`set_outbound`]: crate::layers::IdleTimeoutLayer::set_outbound
//! [`set_any_traffic`]: crate::layers::IdleTimeoutLayer::set_any_traffic
//! [`set_activity`]: crate::layers::IdleTimeoutLayer::set_activity
//! [`set_max_frame`]: crate::ConnectionHandle::set_max_frame
//! [`with_frame_limit`]: crate::CodecLayer::with_frame_limit
//! [`HeartbeatLayer::set_period`]: crate::layers::HeartbeatLayer::set_period
