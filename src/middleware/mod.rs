//! Layers from functions.
//!
//! [`connection_fn`] creates a layer for connections, and [`message_fn`] a layer for messages.
//! Both correspond to `axum::middleware::from_fn`. The function is called with the request and
//! with [`Next`], the rest of the stack.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Pipeline, Reply, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, middleware::{connection_fn, message_fn}};
//! use tokio::net::TcpStream;
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! fn app() -> impl Pipeline<TcpStream> {
//!     ServiceBuilder::new()
//!         .layer(connection_fn(async |connection, next| {
//!             println!("{} opened", connection.handle());
//!             let closed = next.run(connection).await?;
//!             println!("{closed}");
//!             Ok(closed)
//!         }))
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .layer(message_fn(async |request: Request<String>, next| {
//!             if let Some(name) = request.message().strip_prefix("LOGIN ") {
//!                 request.session().insert(User(name.to_owned()));
//!                 return Ok(Reply::one("welcome".to_owned()));
//!             }
//!             if request.session().get::<User>().is_none() {
//!                 return Ok(Reply::one("LOGIN first".to_owned()));
//!             }
//!             next.run(request).await
//!         }))
//!         .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()))
//! }
//! # let _ = app();
//! ```
//!
//! - *ready*: as the inner service. The function gets the service that was polled ready.
//! - *call*: calls a clone of the function with the request and [`Next`]. The inner service is
//!   called by [`Next::run`], at the earliest when the layer's future is polled.
//! - *drop*: drops the function's future at its current `await`. The code after that
//!   `await` does not run if a task is aborted or a connection's future is dropped. An action
//!   that must happen once per connection belongs in a
//!   [close callback](getty_core::ConnectionHandle::add_close_callback).
//! - *close*: nothing.
//!
//! Scope: process, or everything that shares the layer. The function is cloned for each call
//! with the values that it captures. So these should be cheap to clone, such as an
//! [`Arc`](std::sync::Arc), and all sessions of the stack then share them. State of one session
//! belongs in an [attribute](getty_core::ConnectionHandle::insert).
//!
//! # Named functions
//!
//! The type of [`Next`] contains the type of the inner service, so that a message needs no
//! allocation. A closure infers this type. An `async fn` must be generic over it, with the
//! bound [`ConnectionNext`] or [`MessageNext`]:
//!
//! ```
//! use getty::{BoxError, Reply, Request, middleware::{MessageNext, Next}};
//!
//! async fn no_empty_lines<S>(
//!     request: Request<String>,
//!     next: Next<S, Request<String>>,
//! ) -> Result<Reply<String>, BoxError>
//! where
//!     S: MessageNext<String>,
//! {
//!     if request.message().is_empty() {
//!         return Ok(Reply::none());
//!     }
//!     next.run(request).await
//! }
//!
//! # use getty::{
//! #     CodecLayer, Pipeline, ServiceBuilder, SessionLayer, codec::Lines,
//! #     middleware::message_fn,
//! # };
//! # fn app() -> impl Pipeline<tokio::net::TcpStream> {
//! ServiceBuilder::new()
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::new())
//!     .layer(message_fn(no_empty_lines))
//!     .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()))
//! # }
//! # let _ = app();
//! ```
//!
//! # Cost
//!
//! A message costs a clone of the function, a clone of the inner services, and the future:
//! about 120 instructions with an `async` handler that captures nothing. Nothing is allocated.
//! A connection costs one allocation. A [`Service`](crate::Service) that is written by hand
//! does not clone and costs less. The repository's example `custom_layer` has a layer of each
//! kind.

mod from_fn;
mod next;

pub use self::{
    from_fn::{FromFn, FromFnLayer, connection_fn, message_fn},
    next::{ConnectionFuture, ConnectionNext, MessageFuture, MessageNext, Next},
};
