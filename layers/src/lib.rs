//! What flows through a getty pipeline, and the layers that it is made of: all that an author of layers needs, without
//! sockets or servers.
//!
//! A pipeline is a stack of [tower](https://docs.rs/tower) services with two kinds of request. A [`Connection`](getty_core::Connection) goes
//! through the outer part once, and the future of its call is its life; each message that is decoded goes through the
//! inner part, as a [`Request`](getty_core::Request) with its [`Session`](getty_core::Session). `SessionLayer`, in the `getty` crate, stands between the two.
//!
//! # A connection layer
//!
//! What runs before the inner call is "on open", what runs after its future is "on close". Where the code has to run
//! however the connection ends, be it an aborted task, it is a
//! [close callback](getty_core::ConnectionHandle::add_close_callback):
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
//!         drop(connection); // before its session is open: it is refused
//!         Ok::<_, BoxError>(())
//!     });
//! stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(LIVE.load(Ordering::Relaxed), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # A message layer
//!
//! It is a service over [`Request`](getty_core::Request). Whatever makes a reply of its own says so with [`IntoReply`](getty_core::IntoReply) or [`Reply`](getty_core::Reply); what a
//! session is to remember is an [attribute](getty_core::ConnectionHandle::insert) of its handle:
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
//! // a session without a socket, as tests of layers make it
//! let connection = Connection::new(());
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! for expected in ["1: hello", "2: hello"] {
//!     let reply = stack.ready().await?.call(Request::new("hello".to_owned(), session.clone())).await?;
//!     assert_eq!(reply, Reply::one(expected.to_owned()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//!
//! From the outside inwards. Rows above `SessionLayer` are for connections, rows below it for messages.
//!
//! | layer | stands | because | in the wrong place |
//! |---|---|---|---|
//! | [`TraceLayer`] | outermost | all that is logged nests in the connection's span | what stands further out logs without saying for which connection |
//! | `MetricsLayer` | outside whatever may refuse or lose a connection | refusals and failed handshakes are counted, by reason | further in they are not counted; nothing else changes |
//! | [`HandshakeTimeoutLayer`] | outermost | it times what is inside of it until the session opens | inside a layer that does I/O it does not time that layer |
//! | [`CatchPanicLayer`] | outside handshakes and hooks, inside what is to see the error | a panic before the session is open becomes an error with its message | what stands further out panics in the connection's task: only that connection ends, without a message |
//! | [`AccessLayer`] | among the first, inside tower's `concurrency_limit` | nothing expensive is spent on refused peers, and their permits are given back at once | outside a limit, the listener of `serve` keeps the permit of a refused connection until the next connection; inside TLS the handshake is paid first |
//! | [`PeerLimitLayer`] | inside [`AccessLayer`], otherwise as that | as for that | as for [`AccessLayer`]; outside of it, those who are denied count until they are gone |
//! | `TlsLayer` | inside what limits, refuses and watches; outside [`CodecLayer`] | only peers that may connect cost a handshake, and layers that watch see its failure | outside [`AccessLayer`] and [`PeerLimitLayer`] refused peers cost a handshake as well, and outside layers that watch a failed handshake is neither traced nor counted; tower's `concurrency_limit` limits handshakes on either side, because `TlsLayer` reserves its permit before the handshake; inside `CodecLayer` it does not compile |
//! | [`LifetimeLayer`] | anywhere outside `SessionLayer` | the age counts from accept | on messages it does not compile; tower's `timeout` in its place cuts a session off in the middle of a message |
//! | [`WriteTimeoutLayer`] | anywhere outside `SessionLayer` | it replaces the setting of `SessionLayer` itself | of two of them the inner one counts |
//! | [`ReadTimeoutLayer`] | anywhere outside `SessionLayer` | the session loop keeps the time | on messages it does not compile: a frame that is incomplete is no message yet |
//! | [`IdleTimeoutLayer`] | anywhere outside `SessionLayer`; with a hook inside [`CodecLayer`] | the hook has the session | with a hook outside `CodecLayer` it does not compile |
//! | `WsLayer`, `WsOrRawLayer` | inside `TlsLayer`, [`AccessLayer`] and [`PeerLimitLayer`]; outside [`CodecLayer`] | it takes the peer's time before the session, and makes messages of bytes | outside `TlsLayer` or inside [`CodecLayer`] it does not compile; outside of what refuses, a handshake is made for those who are then refused |
//! | [`CloseCallbackLayer`] | anywhere; outermost to see every connection | callbacks run in the order of the layers, from the outside inwards | connections that end before they reach it are not told of |
//! | [`RegistryLayer`] | inside [`CodecLayer`], outside [`OnOpenLayer`]; untyped anywhere outside `SessionLayer` | it lists sessions, and hooks are to find theirs listed | of sessions, outside `CodecLayer`, it does not compile; callbacks of layers outside of it see the session still listed, those of layers inside do not |
//! | [`OnOpenLayer`] | inside [`CodecLayer`], and inside what limits or refuses | it needs the session, and runs for every connection that reaches it | outside `CodecLayer` it does not compile; outside a limit it greets those who are then refused |
//! | [`HeartbeatLayer`] | inside [`CodecLayer`] | it sends through the session | outside `CodecLayer` it does not compile; `IdleTimeoutLayer::all` with a longer time than its period never closes, for beats are bytes: use `read` or `active` |
//! | [`CorrelateLayer`] | inside [`CodecLayer`], and of [`HeartbeatLayer`] where answers come in order | it takes the answers out of what is decoded, and of several such layers the outer one comes first | outside `CodecLayer` it does not compile; in order, a pong would be taken for the answer of the oldest request |
//! | [`CronLayer`] | inside [`CodecLayer`] | it needs the session | outside `CodecLayer` it does not compile |
//! | `SessionLayer` | between the two stacks | above it a request is a connection, below it a message | what stands on the wrong side does not compile |
//! | [`HandleErrorLayer`] | outside of what may fail | it answers for the layers and the handler inside of it | errors of layers outside of it close the session |
//! | [`MessageTraceLayer`] | outermost on messages, but inside [`HandleErrorLayer`] where errors are to be told | its span is around all that happens to a message | outside `HandleErrorLayer` it takes errors that were answered for answers |
//! | `MessageMetricsLayer` | as `MessageTraceLayer` | the latency is that of all that stands inside | the same |
//! | [`CatchPanicLayer`] | inside [`HandleErrorLayer`], or with a reply of its own | a panic becomes an error, which is answered there | outside it a panic closes the session, as without either |
//! | [`ActiveLayer`] | outside of what answers in the handler's stead, if that is to count; outside of tower's `buffer` | the session's own task makes a time of what it says | inside of `buffer` its verdict comes after the turn that would note it |
//! | tower's `timeout`, `load_shed`, `concurrency_limit` | inside [`HandleErrorLayer`]; `load_shed` outside the limit whose surplus it sheds | a message that is late or too many is an error, to be answered | without [`HandleErrorLayer`] outside, one late message ends its session; the limit outside `load_shed` waits and sheds nothing |
//! | [`ClonePerCallLayer`] | outside `load_shed` and a shared limit: in a stack that `SessionLayer::per_session` makes, and for connections of several `serve` | the permit that a refusal reserved is given back at once | inside `load_shed` it has no effect; without it an idle session or listener keeps a permit of the limit |
//! | tower's `rate_limit` | in the stack that `SessionLayer::per_session` makes | each session is paced by itself, and one that waits still sends and closes at once | it is not `Clone`, so under `SessionLayer::new` it does not compile; outside `SessionLayer` it paces accepts |
//! | [`SpawnLayer`] | innermost | only the handler's future is to run on a task | further out it works as well, and the futures of all that is inside of it run on the task |
//!
//! # What a layer owes the rest of the stack
//!
//! - It calls the service that it polled ready, never a clone of it, and passes readiness through: what the inner
//!   service reserved is used by the call or given back by a drop.
//! - It says its scope: message, session, peer or process.
//! - It does no I/O before the inner call unless under a deadline, and then carries the *ready* service across the wait.
//! - What it sends to a [`Session`](getty_core::Session) of its own accord it sends with [`try_send`](getty_core::Session::try_send), or from a future
//!   that is polled beside the inner one.
//!
//! Layers between [`CodecLayer`] and `SessionLayer` are bounded by [`HasSession`](getty_core::HasSession); the others need not know the
//! transport. [`driver`](getty_core::driver) has the other half of a session, for test kits and for loops of another kind.

#[macro_use]
mod levels;

pub mod access;
pub mod active;
pub mod catch_panic;
pub mod clone_per_call;
pub mod close_callback;
pub mod codec;
pub mod correlate;
pub mod cron;
pub mod group;
pub mod handle_error;
pub mod handshake_timeout;
pub mod heartbeat;
pub mod idle_timeout;
mod jitter;
pub mod lifetime;
#[cfg(feature = "metrics")]
pub mod message_metrics;
pub mod message_trace;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod on_open;
pub mod peer_limit;
pub mod read_timeout;
mod refusal;
pub mod registry;
pub mod spawn;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod write_timeout;

#[cfg(feature = "metrics")]
pub use self::{message_metrics::MessageMetricsLayer, metrics::MetricsLayer};

pub use self::{
    access::AccessLayer,
    active::ActiveLayer,
    catch_panic::CatchPanicLayer,
    clone_per_call::ClonePerCallLayer,
    close_callback::CloseCallbackLayer,
    codec::CodecLayer,
    correlate::{Caller, Correlate, CorrelateLayer, Left, RequestError},
    cron::CronLayer,
    group::{Group, Topics},
    handle_error::HandleErrorLayer,
    handshake_timeout::HandshakeTimeoutLayer,
    heartbeat::HeartbeatLayer,
    idle_timeout::IdleTimeoutLayer,
    lifetime::LifetimeLayer,
    message_trace::MessageTraceLayer,
    on_open::OnOpenLayer,
    peer_limit::PeerLimitLayer,
    read_timeout::ReadTimeoutLayer,
    registry::{Registry, RegistryLayer},
    spawn::SpawnLayer,
    trace::TraceLayer,
    write_timeout::WriteTimeoutLayer,
};
