//! Message handlers from functions: their arguments, results, routes and state.
//!
//! ```no_run
//! use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
//! use getty::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let app = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .service(handle(async |line: String| line.to_ascii_uppercase()));
//!     getty::serve(TcpListener::bind("127.0.0.1:7000").await?, app).await?;
//!     Ok(())
//! }
//! ```
//!
//! | to call | use |
//! |---|---|
//! | one function with each message | [`handle`], or [`handle_with`] and a state |
//! | a function for each variant of an enum | [`dispatch`] |
//! | a function for each opcode, name or tag | [`Router`] |
//! | a method of an object that each session has | [`handle_mut`] |
//!
//! Each is a [`tower::Service`] at the inner end of a stack, where
//! [`service_fn`](crate::service_fn) can be used as well. Layers for messages go around it.
//!
//! # Arguments
//!
//! A handler is a function, `async` or not, of up to eight arguments. The first one is made
//! from the message:
//!
//! | first argument | value |
//! |---|---|
//! | the type that the codec decodes | the message |
//! | [`Request<In, Out>`](crate::Request) | the message with its session |
//! | `Json<T>`, `MessagePack<T>`, `Postcard<T>`, `Prost<T>` | a `T`, decoded from the message's [`Payload`] (features `json`, `messagepack`, `postcard`, `prost`) |
//! | a type that implements [`FromRequest`] | made from the request |
//! | any argument of the next table | the message is dropped |
//!
//! The others are made from the session and from the state:
//!
//! | other arguments | value |
//! |---|---|
//! | [`Session<Out>`](crate::Session) | the session |
//! | [`State<T>`](State) | a part of the state: see [`PartOf`] |
//! | [`Attribute<T>`](Attribute) | a clone of an attribute of the session |
//! | [`PeerAddr`] | the address of the peer |
//! | [`ConnectionHandle`](crate::ConnectionHandle) | the untyped handle of the session |
//! | `Option` of one of these | `None` where it would be rejected |
//! | a type that implements [`FromSession`] | made from the session and the state |
//!
//! The others are made before the first one, from left to right. The first [`Rejection`] is the
//! result of the call, and the function is not called. Arguments are made without `async`,
//! because the whole message has arrived before the call.
//!
//! A closure needs the types of its arguments: `|line: String| ..`.
//!
//! # Results
//!
//! | result | effect |
//! |---|---|
//! | `Out` | one message |
//! | `Option<Out>`, `Vec<Out>` | at most one message; any number of messages |
//! | [`Reply<Out>`](crate::Reply) | any number of messages, then perhaps a close |
//! | [`NoReply`] | no message |
//! | `Result<R, E>`, where `E` is [`IntoReply`](crate::IntoReply) | the error is the reply |
//! | `Result<R, BoxError>` | the error fails the call |
//! | `Result<R, Rejection<Out>>` | the rejection is a reply, or fails the call |
//!
//! `R` is any result of this table. A failed call closes the session with
//! [`CloseReason::Handler`](crate::CloseReason::Handler). A
//! [`HandleErrorLayer`](crate::layers::HandleErrorLayer) replies instead. `()` is not a result:
//! a handler that loses its reply through a stray semicolon will not compile.
//!
//! ```
//! use getty::{Attribute, BoxError, IntoReply, Reply, Session, State, handler::NoReply};
//! # use std::sync::{Arc, Mutex};
//!
//! #[derive(Clone, Default)]
//! struct Names(Arc<Mutex<Vec<String>>>);
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! enum ChatError {
//!     NameTaken,
//! }
//!
//! impl IntoReply<String> for ChatError {
//!     fn into_reply(self) -> Reply<String> {
//!         match self {
//!             Self::NameTaken => Reply::one("ERR name taken".to_owned()),
//!         }
//!     }
//! }
//!
//! fn login(
//!     name: String,
//!     session: Session<String>,
//!     State(Names(names)): State<Names>,
//! ) -> Result<NoReply, ChatError> {
//!     let mut names = names.lock().unwrap();
//!     if names.contains(&name) {
//!         return Err(ChatError::NameTaken);
//!     }
//!     names.push(name.clone());
//!     session.insert(User(name));
//!     Ok(NoReply)
//! }
//!
//! async fn add(number: String, Attribute(User(name)): Attribute<User>) -> Result<String, BoxError> {
//!     let number: u64 = number.parse()?;
//!     Ok(format!("{name}: {}", number + 1))
//! }
//! # fn check<In, Out, S, Args>(_: impl getty::handler::Handler<In, Out, S, Args>) {}
//! # check::<String, String, Names, _>(login);
//! # check::<String, String, Names, _>(add);
//! ```
//!
//! # State
//!
//! | state of | where it is | a handler gets it as |
//! |---|---|---|
//! | the application | `handle_with(state, ..)`, `dispatch(state, ..)`, `Router::with_state(state)` | `State<T>` |
//! | one session, set by a handler | [`Session::insert`] | `Attribute<T>` |
//! | one session that has logged in | [`Router::with_state_of`] | `State<T>` |
//! | one session, mutable | the object of [`handle_mut`], [`make_service`] | `&mut self` |
//! | one session, with a router | [`Router::clone_with_state`], [`make_service`] | `State<T>` |
//!
//! State of the application is cloned for each message that uses it. So it should be an `Arc`,
//! or a struct of a few `Arc`s with [`PartOf`] for each part.
//!
//! Many game and database servers have an object for each session. Its methods change it
//! without a lock, because its messages are handled one at a time:
//!
//! ```
//! use getty::handler::{NoReply, handle_mut, make_service};
//! use getty::{CodecLayer, ServiceBuilder, Session, SessionLayer, codec::Lines};
//!
//! struct Client {
//!     session: Session<String>,
//!     transaction: Vec<String>,
//! }
//!
//! impl Client {
//!     fn new(session: Session<String>) -> Self {
//!         Self { session, transaction: Vec::new() }
//!     }
//!
//!     fn handle(&mut self, line: String) -> Option<String> {
//!         if line == "EXEC" {
//!             return Some(self.transaction.drain(..).collect::<Vec<_>>().join(" "));
//!         }
//!         self.transaction.push(line);
//!         None
//!     }
//! }
//!
//! let app = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::per_session())
//!     .service(make_service(|session| handle_mut(Client::new(session), Client::handle)));
//! # let (listener, _) = getty::net::memory(1024);
//! # let _ = getty::serve(listener, app);
//! ```
//!
//! # Cost
//!
//! A handler that is not `async` runs in place and allocates nothing. Instructions for a
//! message of 64 bytes, counted by the repository's benchmarks, beside a
//! [`service_fn`](crate::service_fn) or a hand-written `match`:
//!
//! | | instructions |
//! |---|--:|
//! | `handle(f)` | 0 |
//! | `handle(async ..)` | 54 |
//! | a [`Session`](crate::Session) | 49 |
//! | a [`State`] that is an `Arc` | 70 |
//! | an [`Attribute`] that is an `Arc`, beside a session | 87 |
//! | [`dispatch`] over three variants | 0 |
//! | [`Router`] over numbers, 1 to 64 routes | 61 to 69 |
//! | [`Router`] over numbers, `async` handlers | 264 to 272 |
//! | a merged router | 42 more |
//! | [`handle_mut`] | 0 |
//!
//! # Scope
//!
//! Each session has a clone of its stack and so of the handler's service. The clones share the
//! routes, and they share the state if its clones do. A service that a [`make_service`] creates
//! belongs to one session.
//!
//! [`Session::insert`]: crate::ConnectionHandle::insert

mod dispatch;
mod extract;
mod function;
mod output;
mod packet;
mod payload;
mod per_session;
mod router;
mod service;
#[cfg(feature = "json")]
mod tagged;
#[doc(hidden)]
pub mod via;

#[cfg(feature = "json")]
pub use self::payload::Json;
#[cfg(feature = "messagepack")]
pub use self::payload::MessagePack;
#[cfg(feature = "postcard")]
pub use self::payload::Postcard;
#[cfg(feature = "prost")]
pub use self::payload::Prost;
#[cfg(feature = "json")]
pub use self::tagged::Tagged;
pub use self::{
    dispatch::{Dispatch, Scope, dispatch},
    extract::{
        Attribute, FromRequest, FromSession, MissingAttribute, PartOf, Payload, PeerAddr,
        Rejection, State,
    },
    function::Handler,
    output::{HandlerFuture, HandlerOutput, Immediate, NoReply},
    packet::{IntoPayload, Opcode, Packet},
    per_session::{MakeService, Method, ObjectService, handle_mut, make_service},
    router::{IntoKey, Keyed, NoCase, NoRoute, Route, RouteFuture, RouteKey, RouteService, Router},
    service::{HandlerService, handle, handle_with},
};
#[doc(hidden)]
pub use self::{
    function::{Arguments, Function},
    output::{Outcome, OutputFuture},
    per_session::AsyncMethod,
};
