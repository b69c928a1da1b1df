//! Vocabulary of a getty pipeline: connections, sessions, messages and their replies.
//!
//! A pipeline is a stack of [tower](https://docs.rs/tower) services with two kinds of requests:
//!
//! - A [`Connection`] passes through the outer stack once. The future of the call is the life
//!   of the connection, and its response is the [`Closed`] record.
//! - Each decoded message passes through the inner stack as a [`Request`] with its [`Session`].
//!   The response is a [`Reply`].
//!
//! `SessionLayer` of the `getty` crate connects the two stacks. This crate contains the types
//! that both stacks share, without sockets and without layers.
//!
//! # Which crate do I need?
//!
//! - Applications should depend on `getty`, which re-exports this crate.
//! - Authors of layers should depend on this crate, as authors of tower middleware depend on
//!   `tower-layer` and `tower-service`. It changes less often than `getty`.
//!
//! # Example
//!
//! This middleware counts the messages of each session in an attribute, and closes a
//! session beyond a limit. It works with any message type and any inner service:
//!
//! ```
//! use std::task::{Context, Poll, Waker};
//!
//! use getty_core::{Connection, Reply, Request, driver};
//! use tower_service::Service;
//!
//! /// Number of messages that a session has sent.
//! #[derive(Clone, Copy)]
//! struct Count(u32);
//!
//! #[derive(Clone)]
//! struct LimitMessages<S> {
//!     inner: S,
//!     limit: u32,
//! }
//!
//! impl<S, In, Out: 'static> Service<Request<In, Out>> for LimitMessages<S>
//! where
//!     S: Service<Request<In, Out>>,
//! {
//!     type Response = S::Response;
//!     type Error = S::Error;
//!     type Future = S::Future;
//!
//!     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
//!         self.inner.poll_ready(cx)
//!     }
//!
//!     fn call(&mut self, request: Request<In, Out>) -> S::Future {
//!         let session = request.session();
//!         let Count(before) = session.get().unwrap_or(Count(0));
//!         session.insert(Count(before + 1));
//!         if before >= self.limit {
//!             session.close(); // flushes the replies that are pending
//!         }
//!         self.inner.call(request)
//!     }
//! }
//!
//! # struct Echo;
//! # impl Service<Request<&'static str>> for Echo {
//! #     type Response = Reply<&'static str>;
//! #     type Error = std::convert::Infallible;
//! #     type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
//! #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
//! #         Poll::Ready(Ok(()))
//! #     }
//! #     fn call(&mut self, request: Request<&'static str>) -> Self::Future {
//! #         std::future::ready(Ok(Reply::one(request.into_message())))
//! #     }
//! # }
//! // a session without a transport, for a test
//! let connection = Connection::new(());
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! let mut service = LimitMessages { inner: Echo, limit: 1 };
//!
//! let mut cx = Context::from_waker(Waker::noop());
//! for closing in [false, true] {
//!     assert!(service.poll_ready(&mut cx).is_ready());
//!     let _reply = service.call(Request::new("hello", session.clone()));
//!     assert_eq!(session.is_closing(), closing);
//! }
//! ```
//!
//! # Overview
//!
//! | to | use |
//! |---|---|
//! | store values with a connection | [`ConnectionHandle::insert`] |
//! | run code after any end of a connection | [`ConnectionHandle::add_close_callback`] |
//! | close with a reason, source, deadline | [`ConnectionHandle::close_with`] and [`Close`] |
//! | send messages from any task | [`Session`] |
//! | send requests and await their responses | [`Session::request`] |
//! | limit the memory of all sessions | [`MemoryBudget`] |
//! | schedule deadlines in a layer, delay the opening | [`hooks::HandleExt`] |
//! | test a layer without a transport | [`driver`] |

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accessors;
pub mod budget;
mod connection;
pub mod correlate;
pub mod hooks;
mod message;
mod panic;
mod rate;
mod session;
#[doc(hidden)]
pub mod sync;

pub use self::{
    budget::MemoryBudget,
    connection::{
        Address, AddressesFixed, ApplicationClose, CallbackAdded, Close, CloseReason, Closed,
        Connection, ConnectionHandle, DrainDeadlineExceeded, Endpoints, SharedError, Stats,
        TransportKind, WeakHandle,
    },
    correlate::{Caller, Correlate, Delivery, RequestError},
    message::{IntoReply, Replies, Reply, Request},
    panic::Panic,
    rate::Rate,
    session::{
        Feeding, HasSession, Offered, SendError, Sending, Sent, Session, SessionIo, SessionIoParts,
        SlowConsumer, WeakSession, Writable, driver,
    },
};

/// Items for getty's own crates, without stability guarantees.
#[doc(hidden)]
pub mod internal {
    pub use crate::{
        connection::{OnInputEnd, PanicGuard},
        panic::{catch, catch_and_log, log},
        session::{BroadcastExt, BroadcastSend, Published, payload::WeightFn},
    };
}
