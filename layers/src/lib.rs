//! Layers for getty pipelines.
//!
//! A pipeline is a stack of [tower] services with two kinds of requests. A [`Connection`]
//! passes through the outer part once. The future of its call is its whole life. Each decoded
//! message passes through the inner part, as a [`Request`] with its [`Session`].
//! `SessionLayer`, in the `getty` crate, separates the two parts.
//!
//! Applications use these layers as `getty::layers`. This crate contains no sockets and no
//! servers. Authors of layers need only `getty-core`, which defines the types of a pipeline.
//!
//! # Layers
//!
//! - Time: [`HandshakeTimeoutLayer`], [`IdleTimeoutLayer`], [`ReadTimeoutLayer`],
//!   [`WriteTimeoutLayer`], [`MaxAgeLayer`], [`HeartbeatLayer`], [`IntervalLayer`],
//!   [`ActivityLayer`].
//! - Admission: [`AccessLayer`], [`PeerLimitLayer`], [`PendingLimitLayer`],
//!   [`SessionLimitLayer`].
//! - Sessions: [`CodecLayer`], [`OnOpenLayer`], [`CloseCallbackLayer`], [`RegistryLayer`],
//!   [`CorrelateLayer`].
//! - Calls: [`HandleErrorLayer`], [`HandleMalformedLayer`], [`CatchPanicLayer`],
//!   [`SpawnLayer`], [`ClonePerCallLayer`].
//! - Observability: [`TraceLayer`], [`MessageTraceLayer`], `MetricsLayer` and
//!   `MessageMetricsLayer` (feature `metrics`).
//! - Used beside layers: [`Group`], [`Topics`] and [`Registry`].
//!
//! # Example
//!
//! A stack of several layers. The last service is in place of `SessionLayer` and the handler:
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, HasSession, SessionIo};
//! use getty_layers::{CodecLayer, HandshakeTimeoutLayer, IdleTimeoutLayer, OnOpenLayer, TraceLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(TraceLayer::new())
//!     .layer(HandshakeTimeoutLayer::default())
//!     .layer(IdleTimeoutLayer::new(Duration::from_secs(60)))
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(OnOpenLayer::new(|session| async move {
//!         session.feed("220 welcome".to_owned()).await
//!     }))
//!     .service_fn(|connection: Connection<SessionIo<(), LinesCodec, String>>| async move {
//!         Ok::<_, BoxError>(connection.transport().session().queued())
//!     });
//! assert_eq!(stack.oneshot(Connection::new(())).await?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Writing a connection layer
//!
//! Code before the inner call runs when a connection arrives. Code after the inner future runs
//! when it ends unless the task is aborted. Use a [close callback] for code that must always
//! run:
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! use getty_core::{CloseReason, Connection};
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! static LIVE: AtomicUsize = AtomicUsize::new(0);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .map_request(|connection: Connection<&'static str>| {
//!         LIVE.fetch_add(1, Ordering::Relaxed);
//!         connection.handle().add_close_callback("docs", "live", |closed| {
//!             LIVE.fetch_sub(1, Ordering::Relaxed);
//!             assert_eq!(closed.reason, CloseReason::Refused);
//!         });
//!         connection
//!     })
//!     .service_fn(|connection: Connection<_>| async move {
//!         assert_eq!(LIVE.load(Ordering::Relaxed), 1);
//!         drop(connection); // before its session opens, which refuses it
//!         Ok::<_, BoxError>(())
//!     });
//! stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(LIVE.load(Ordering::Relaxed), 0);
//! # Ok(())
//! # }
//! ```
//!
//! A layer that only configures connections can use [`configure`].
//!
//! # Writing a message layer
//!
//! A message layer is a service over [`Request`]. A layer that replies instead of the handler
//! returns a response that implements [`IntoReply`] such as [`Reply`]. State of a session is an
//! [attribute] of its handle:
//!
//! ```
//! use getty_core::{Connection, Reply, Request, driver};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! #[derive(Clone, Copy)]
//! struct Seen(u32);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut stack = ServiceBuilder::new()
//!     .map_request(|request: Request<String>| {
//!         let Seen(before) = request.session().get().unwrap_or(Seen(0));
//!         request.session().insert(Seen(before + 1));
//!         request
//!     })
//!     .service_fn(|request: Request<String>| async move {
//!         let Seen(n) = request.session().get().ok_or("not counted")?;
//!         Ok::<_, BoxError>(Reply::one(format!("{n}: {}", request.message())))
//!     });
//!
//! // a session without a socket, for tests
//! let connection = Connection::new(());
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! for expected in ["1: hello", "2: hello"] {
//!     let request = Request::new("hello".to_owned(), session.clone());
//!     let reply = stack.ready().await?.call(request).await?;
//!     assert_eq!(reply, Reply::one(expected.to_owned()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Order of layers
//!
//! From the outside inwards. Rows above `SessionLayer` are for connections, rows below it for
//! messages. The layers of a row that replace the transport are alternatives. A stack needs few
//! layers, and these should have this order.
//!
//! | layer | place | reason | in the wrong place |
//! |---|---|---|---|
//! | [`HandshakeTimeoutLayer`] | outermost; [`TraceLayer`] and `MetricsLayer` may be outside | it limits the time of all layers inside it until the session opens | inside a layer that does I/O it does not limit that layer |
//! | tower's `concurrency_limit` | inside [`HandshakeTimeoutLayer`], outside all layers that refuse | at the limit the surplus waits in the kernel; a refused connection will give its permit back at once | inside a layer that refuses, the listener of `serve` keeps the permit of a refused connection until the next connection; inside `ConnectionRouter` it does not slow down the accept loop |
//! | [`PendingLimitLayer`] | inside the two above; it must be outside `ProxyProtocolLayer` and other layers that wait for the peer such as `TlsLayer` | it counts connections that wait for their peers until the session opens | inside `ProxyProtocolLayer` or another layer that waits, peers that stall there are not counted; without `ProxyProtocolLayer` it should be inside [`AccessLayer`] and [`PeerLimitLayer`] because outside them a refused peer may end the oldest connection |
//! | `ProxyProtocolLayer` | inside the three above; it must be outside all layers that use addresses | it sets the client's address, which layers read when they are called | outside it [`TraceLayer`] shows the proxy for the whole connection; [`AccessLayer`] checks the proxy; [`PeerLimitLayer`] counts all clients as one peer; inside `TlsLayer` the header is no handshake and every connection is refused |
//! | [`TraceLayer`] | outermost if there is no `ProxyProtocolLayer`, otherwise directly inside it | events of all layers inside it are in the connection's span; the span has the client's address | events of layers outside it do not contain their connection |
//! | `MetricsLayer` | like [`TraceLayer`]; outside layers that may refuse or lose a connection | refusals and failed handshakes are counted by reason | connections that a layer outside it refuses are not counted; nothing else changes |
//! | [`AccessLayer`] | among the first that remain | no expensive work is done for refused peers and their permits are given back at once | inside TLS a refused peer costs a handshake |
//! | [`PeerLimitLayer`] | inside [`AccessLayer`], otherwise like it | like [`AccessLayer`] | like [`AccessLayer`]; outside it, denied connections count until they are closed |
//! | [`CatchPanicLayer`] | outside handshakes and hooks, inside layers that should get the error | a panic before the session opens becomes an error with the panic message | a layer outside it panics in the connection's task: only that connection ends, without a message |
//! | `TlsLayer` | inside layers that limit, refuse and observe; outside [`CodecLayer`] | only admitted peers cost a handshake and observing layers see its failure | outside [`AccessLayer`] and [`PeerLimitLayer`] refused peers cost a handshake as well; outside observing layers a failed handshake is neither traced nor counted; tower's `concurrency_limit` limits handshakes on either side because `TlsLayer` reserves its permit before the handshake; inside `CodecLayer` it does not compile |
//! | `TlsOrPlainLayer` | in the place of `TlsLayer` | it reads the first bytes; the layers inside may need a byte stream | like `TlsLayer` |
//! | `StartTlsLayer`, `UpgradeLayer` | in the place of `TlsLayer`; no layer between it and [`CodecLayer`] may need a byte stream | the session begins with the plain byte stream and replaces it below the codec | inside `CodecLayer` or outside a layer that needs a byte stream it does not compile; without it a reply with `and_upgrade` closes the session as `UpgradeFailed` |
//! | `ConnectionRouter` | innermost of the shared connection layers; inside `TlsLayer` if the key is a server name | each route has the layers that follow with a separate `CodecLayer` | outside `TlsLayer` there is no server name and every connection is refused; a limit inside a route does not slow down the accept loop |
//! | `OpeningLayer` | inside `TlsLayer`, limits and layers that refuse; outside `WsLayer`, `CompressionLayer` and [`CodecLayer`] | its dialogue needs a byte stream and returns one; the session does not see it | outside `TlsLayer` it speaks in plain text; outside layers that refuse peers it holds a dialogue with refused ones; inside `WsLayer`, `CompressionLayer` or `CodecLayer` it does not compile |
//! | `WsLayer`, `WsOrRawLayer` | inside `TlsLayer`, `OpeningLayer`, [`AccessLayer`] and [`PeerLimitLayer`]; outside [`CodecLayer`] | the handshake waits for the peer and turns bytes into messages | outside `TlsLayer` or inside [`CodecLayer`] it does not compile; outside layers that refuse, refused peers cost a handshake |
//! | `CompressionLayer` | inside `TlsLayer` and `OpeningLayer`, outside [`CodecLayer`] | encrypted bytes cannot be compressed and the codec must get plain bytes | outside `TlsLayer` or `WsLayer` and inside `CodecLayer` it does not compile; compression of WebSocket is a setting of `WsLayer` |
//! | [`MaxAgeLayer`] | anywhere outside `SessionLayer` | the age counts from accept | on messages it does not compile; tower's `timeout` in its place ends a session in the middle of a message |
//! | [`WriteTimeoutLayer`] | anywhere outside `SessionLayer` | it replaces the setting of `SessionLayer` | of two, the inner one takes effect |
//! | [`ReadTimeoutLayer`] | anywhere outside `SessionLayer` | the session loop measures the time | on messages it does not compile: an incomplete frame is not a message yet |
//! | [`IdleTimeoutLayer`] | anywhere outside `SessionLayer`; with a hook inside [`CodecLayer`] | the hook gets the session | with a hook outside `CodecLayer` it does not compile |
//! | [`CloseCallbackLayer`] | anywhere; outermost to see every connection | callbacks run in the order of the layers, from the outside inwards | connections that end before they reach it have no callback |
//! | [`CodecLayer`] | inside all layers that replace the transport; it must be outside layers that need the session | it adds the codec and the session to the transport | further outside or inside it does not compile |
//! | [`RegistryLayer`] | inside [`CodecLayer`], outside [`OnOpenLayer`]; untyped anywhere outside `SessionLayer` | it lists sessions, and hooks should find their session in the list | a registry of sessions outside `CodecLayer` does not compile; close callbacks of layers outside it still find the session listed, those of layers inside do not |
//! | [`SessionLimitLayer`] | inside [`CodecLayer`], outside [`OnOpenLayer`] and [`RegistryLayer`] | it sends a message to the peers that it refuses | outside `CodecLayer` it does not compile; inside `OnOpenLayer` refused peers are greeted |
//! | [`OnOpenLayer`] | inside [`CodecLayer`], and inside layers that limit or refuse | it needs the session, and runs for every connection that reaches it | outside `CodecLayer` it does not compile; outside a limit it greets peers that are then refused |
//! | [`HeartbeatLayer`] | inside [`CodecLayer`] | it sends through the session | outside `CodecLayer` it does not compile; `IdleTimeoutLayer::any_traffic` or `outbound` with a longer time than its period never closes a session, because heartbeats are bytes: use `new` or `activity` |
//! | [`CorrelateLayer`] | inside [`CodecLayer`], and inside [`HeartbeatLayer`] if responses come in order | it removes responses from the decoded messages, and the outermost of several such layers is first | outside `CodecLayer` it does not compile; with responses in order, a pong would be the response to the oldest request |
//! | [`IntervalLayer`] | inside [`CodecLayer`] | it needs the session | outside `CodecLayer` it does not compile |
//! | `SessionLayer` | between the two stacks | outside it a request is a connection, inside it a message | a layer on the wrong side does not compile |
//! | [`HandleErrorLayer`] | outside layers that may fail | it replies for the layers and the handler inside it | errors of layers outside it close the session |
//! | [`HandleMalformedLayer`] | outermost on messages | layers inside it receive messages alone | inside a layer that requires the message's type, it does not compile |
//! | [`MessageTraceLayer`] | outermost on messages, but inside [`HandleErrorLayer`] if errors should be logged | its span contains the whole handling of a message | outside `HandleErrorLayer` it logs replies to errors as responses |
//! | `MessageMetricsLayer` | like `MessageTraceLayer` | the latency includes all layers inside it | like `MessageTraceLayer` |
//! | [`CatchPanicLayer`] | inside [`HandleErrorLayer`], or with `with_reply` | a panic becomes an error, and `HandleErrorLayer` replies to it | outside it a panic closes the session, as without both layers |
//! | [`ActivityLayer`] | outside layers that reply instead of the handler, if their messages should count; outside tower's `buffer` | the session's own task updates the timestamp | inside `buffer` its result comes after the poll that would record it |
//! | tower's `timeout`, `load_shed`, `concurrency_limit` | inside [`HandleErrorLayer`]; `load_shed` outside the limit that it sheds for | a late or excess message is an error that needs a reply | without [`HandleErrorLayer`] outside, one late message ends its session; a limit outside `load_shed` waits and sheds nothing |
//! | [`ClonePerCallLayer`] | outside `load_shed` and a shared limit: in a stack that `SessionLayer::per_session` creates, and for connections of several `serve` | a permit that was reserved for a refused call is given back at once | inside `load_shed` it has no effect; without it an idle session or listener keeps a permit of the limit |
//! | tower's `rate_limit` | in the stack that `SessionLayer::per_session` creates | each session has a separate rate, and a session that waits still sends and closes at once | it is not `Clone`, so under `SessionLayer::new` it does not compile; outside `SessionLayer` it limits accepts |
//! | [`SpawnLayer`] | innermost | only the handler's future should run in the task | further out it works as well, and the futures of all layers inside it run in the task |
//!
//! Layers around a connector should have this order. Layers of one row are alternatives.
//!
//! | layer around a connector | reason | in the wrong place |
//! |---|---|---|
//! | `CompressionConnectLayer`, `WsConnectLayer`, `StartTlsConnectLayer` | their bytes must pass through all layers inside | with another layer of this table outside they do not compile |
//! | `OpeningConnectLayer` | its dialogue should be protected by TLS | inside `TlsConnectLayer` it speaks in plain text |
//! | `TlsConnectLayer` | TLS reaches to the server | inside the layers of outgoing proxies TLS ends at the proxy and the handle has no `TlsInfo` |
//! | `ProxyProtocolConnectLayer` | the server reads the header before TLS | outside `TlsConnectLayer` the header is encrypted; outside `WsConnectLayer` it does not compile |
//! | `Socks5ConnectLayer`, `HttpConnectLayer` | they reach the server through an outgoing proxy | outside `WsConnectLayer` they do not compile |
//! | the connector, such as `TcpConnector` | | |
//!
//! # Settings of an open session
//!
//! Settings of layers are fixed when a connection arrives, except for these. Each function takes
//! the session or its handle, returns `false` if the session has no such layer or is closing,
//! and may be called from handlers, hooks, close callbacks and other threads. A new value takes
//! effect in the next poll of the session loop, which is woken.
//!
//! | setting | function | zero | [`Duration::MAX`](std::time::Duration::MAX) |
//! |---|---|---|---|
//! | time without traffic | [`IdleTimeoutLayer::set`], and one for each other kind | closes a session that is idle when it is checked | never closes |
//! | time for an incomplete frame | [`ReadTimeoutLayer::set`] | closes on a frame that does not arrive in one piece | never closes |
//! | period of heartbeats | [`HeartbeatLayer::set_period`] | one millisecond | sends none |
//! | maximum frame in bytes | [`set_max_frame`], with [`CodecLayer::with_frame_limit`] | as the codec defines | |
//! | write timeout | [`set_write_timeout`] | as in [`WriteTimeoutLayer`] | never closes |
//!
//! A layer of an application reads its setting in a check that [`schedule_check`] registers.
//! A session whose settings do not change pays nothing for them.
//!
//! [`set_max_frame`]: getty_core::ConnectionHandle::set_max_frame
//! [`set_write_timeout`]: getty_core::hooks::HandleExt::set_write_timeout
//! [`schedule_check`]: getty_core::hooks::HandleExt::schedule_check
//!
//! # Rules for layers
//!
//! - A layer must call the service that it polled ready, not a clone, and must pass readiness
//!   through. The inner service's reservation is used by the call or given back by a drop.
//! - A layer documents its scope: message, session, peer or process.
//! - A layer must not do I/O before the inner call without a deadline. It then moves the
//!   *ready* service across the wait.
//! - A layer that sends to a [`Session`] without a request must use [`try_send`], or a future
//!   that is polled beside the inner one.
//!
//! Layers between [`CodecLayer`] and `SessionLayer` have the bound [`HasSession`]. Other layers
//! are independent of the transport. The module [`driver`] contains the other half of a
//! session, for test kits.
//!
//! [tower]: https://docs.rs/tower
//! [`Connection`]: getty_core::Connection
//! [`Request`]: getty_core::Request
//! [`Session`]: getty_core::Session
//! [`IntoReply`]: getty_core::IntoReply
//! [`Reply`]: getty_core::Reply
//! [`HasSession`]: getty_core::HasSession
//! [`driver`]: getty_core::driver
//! [`try_send`]: getty_core::Session::try_send
//! [close callback]: getty_core::ConnectionHandle::add_close_callback
//! [attribute]: getty_core::ConnectionHandle::insert

#[macro_use]
mod util;
#[cfg(all(test, not(getty_loom)))]
mod testing;

pub mod access;
pub mod activity;
pub mod admission;
pub mod catch_panic;
pub mod clone_per_call;
pub mod close_callback;
pub mod codec;
pub mod configure;
pub mod correlate;
pub mod filter_map;
pub mod group;
pub mod handle_error;
pub mod handshake_timeout;
pub mod heartbeat;
pub mod idle_timeout;
pub mod interval;
pub mod malformed;
pub mod max_age;
#[cfg(feature = "metrics")]
pub mod message_metrics;
pub mod message_trace;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod on_open;
pub mod peer_limit;
pub mod pending_limit;
pub mod read_timeout;
pub mod registry;
pub mod session_limit;
pub mod spawn;
pub mod trace;
pub mod write_timeout;

#[cfg(feature = "metrics")]
pub use self::{message_metrics::MessageMetricsLayer, metrics::MetricsLayer};

pub use self::{
    access::AccessLayer,
    activity::ActivityLayer,
    catch_panic::CatchPanicLayer,
    clone_per_call::ClonePerCallLayer,
    close_callback::CloseCallbackLayer,
    codec::CodecLayer,
    correlate::{Caller, Correlate, CorrelateLayer, Delivery, RequestError},
    group::{Group, Topics},
    handle_error::HandleErrorLayer,
    handshake_timeout::HandshakeTimeoutLayer,
    heartbeat::HeartbeatLayer,
    idle_timeout::IdleTimeoutLayer,
    interval::IntervalLayer,
    malformed::{HandleMalformedLayer, Malformed},
    max_age::MaxAgeLayer,
    message_trace::MessageTraceLayer,
    on_open::OnOpenLayer,
    peer_limit::PeerLimitLayer,
    pending_limit::PendingLimitLayer,
    read_timeout::ReadTimeoutLayer,
    registry::{Registry, RegistryLayer},
    session_limit::SessionLimitLayer,
    spawn::SpawnLayer,
    trace::TraceLayer,
    write_timeout::WriteTimeoutLayer,
};
