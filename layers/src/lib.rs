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
//! use getty_layers::{
//!     CodecLayer, HandshakeTimeoutLayer, IdleTimeoutLayer, OnOpenLayer,
//!     TraceLayer,
//! };
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
#![doc = include_str!("order.md")]
//!
//! # Settings of an open session
//!
//! Settings of layers are fixed when a connection arrives, except for these. Each function
//! takes the session or its handle, returns `false` if the session has no such layer or is
//! closing, and may be called from handlers, hooks, close callbacks and other threads. A new
//! value takes effect in the next poll of the session loop, which is woken.
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

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

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
