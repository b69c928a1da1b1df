//! What flows through a getty pipeline, and the layers that it is made of: all that an author of layers needs, without
//! sockets or servers.
//!
//! A pipeline is a stack of [tower](https://docs.rs/tower) services with two kinds of request. A [`Connection`] goes
//! through the outer part once, and the future of its call is its life; each message that is decoded goes through the
//! inner part, as a [`Request`] with its [`Session`]. `SessionLayer`, in the `getty` crate, stands between the two.
//!
//! # A connection layer
//!
//! What runs before the inner call is "on open", what runs after its future is "on close". Where the code has to run
//! however the connection ends, be it an aborted task, it is a
//! [close callback](ConnectionHandle::add_close_callback):
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! use getty_layers::{CloseReason, Connection};
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
//! It is a service over [`Request`]. Whatever makes a reply of its own says so with [`IntoReply`] or [`Reply`]; what a
//! session is to remember is an [attribute](ConnectionHandle::insert) of its handle:
//!
//! ```
//! use getty_layers::{Connection, Reply, Request, driver};
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
//! # What a layer owes the rest of the stack
//!
//! - It calls the service that it polled ready, never a clone of it, and passes readiness through: what the inner
//!   service reserved is used by the call or given back by a drop.
//! - It says its scope: message, session, peer or process.
//! - It does no I/O before the inner call unless under a deadline, and then carries the *ready* service across the wait.
//! - What it sends to a [`Session`] of its own accord it sends with [`try_send`](Session::try_send), or from a future
//!   that is polled beside the inner one.
//!
//! Layers between [`CodecLayer`] and `SessionLayer` are bounded by [`HasSession`]; the others need not know the
//! transport. [`driver`] has the other half of a session, for test kits and for loops of another kind.
//!
//! # Order
//!
//! From the outside to the inside, as in a `ServiceBuilder`; layers in the same part may change places.
//!
//! | layer | where, and why | in the wrong place |
//! |---|---|---|
//! | [`HandshakeTimeoutLayer`] | outermost: it times what is inside of it until the session opens | inside a layer that does I/O it does not time that layer |
//! | [`LifetimeLayer`] | anywhere outside `SessionLayer`: the age counts from accept | on messages it does not compile; tower's `timeout` in its place cuts a session off in the middle of a message |
//! | [`WriteTimeoutLayer`] | anywhere outside `SessionLayer`, whose own setting it replaces | of two of them the inner one counts |
//! | [`ReadTimeoutLayer`] | anywhere outside `SessionLayer` | on messages it does not compile: a frame that is incomplete is no message yet |
//! | [`IdleTimeoutLayer`] | anywhere outside `SessionLayer`; with a hook inside `CodecLayer`, for the hook has the session | with a hook outside `CodecLayer` it does not compile |
//! | [`HeartbeatLayer`] | between `CodecLayer` and `SessionLayer`: it sends through the session | outside `CodecLayer` it does not compile; `IdleTimeoutLayer::all` with a longer time than its period never closes, for beats are bytes: use `read` or `active` |

pub mod codec;
mod connection;
pub mod handle_error;
pub mod handshake_timeout;
pub mod heartbeat;
pub mod idle_timeout;
mod jitter;
pub mod lifetime;
mod message;
pub mod read_timeout;
mod session;
mod sync;
#[cfg(all(test, not(getty_loom)))]
mod testing;
pub mod write_timeout;

pub use self::{
    codec::CodecLayer,
    connection::{
        Address, CallbackAdded, CloseReason, Closed, Connection, ConnectionHandle,
        DrainDeadlineExceeded, Endpoints, Panic, SharedError, Stats, TransportKind,
    },
    handle_error::HandleErrorLayer,
    handshake_timeout::HandshakeTimeoutLayer,
    heartbeat::HeartbeatLayer,
    idle_timeout::IdleTimeoutLayer,
    lifetime::LifetimeLayer,
    message::{IntoReply, Replies, Reply, Request},
    read_timeout::ReadTimeoutLayer,
    session::{
        Feeding, Framed, FramedParts, HasSession, SendError, Sending, Sent, Session, driver,
    },
    write_timeout::WriteTimeoutLayer,
};
