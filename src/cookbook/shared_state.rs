//! Handlers for each kind of message, with shared state.
//!
//! A server has several kinds of messages, and a function for each. All sessions share the
//! state of the application.
//!
//! # Program
//!
//! ```
//! use std::{collections::HashMap, sync::{Arc, Mutex}};
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use getty::{BoxError, CodecLayer, Scope, ServiceBuilder, SessionLayer, State, dispatch};
//! use getty::{codec::{Json, Lines}, handler::PartOf, net::TcpListener};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Command {
//!     Set { key: String, value: String },
//!     Get(String),
//!     Writes,
//! }
//!
//! #[derive(Serialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Answer {
//!     Value(Option<String>),
//!     Writes(usize),
//! }
//!
//! /// The state of the application. Clones share it.
//! #[derive(Clone, Default)]
//! struct App {
//!     items: Items,
//!     writes: Arc<AtomicUsize>,
//! }
//!
//! type Map = HashMap<String, String>;
//!
//! #[derive(Clone, Default)]
//! struct Items(Arc<Mutex<Map>>);
//!
//! impl PartOf<App> for Items {
//!     fn part_of(app: &App) -> Self {
//!         app.items.clone()
//!     }
//! }
//!
//! fn set((key, value): (String, String), State(app): State<App>) -> Answer {
//!     app.writes.fetch_add(1, Relaxed);
//!     Answer::Value(app.items.0.lock().unwrap().insert(key, value))
//! }
//!
//! fn get(key: String, State(Items(items)): State<Items>) -> Answer {
//!     Answer::Value(items.lock().unwrap().get(&key).cloned())
//! }
//!
//! fn writes(State(app): State<App>) -> Answer {
//!     Answer::Writes(app.writes.load(Relaxed))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let state = App::default();
//!     let handler = dispatch(state, |command, scope: Scope<Answer, App>| match command {
//!         Command::Set { key, value } => scope.call(set, (key, value)),
//!         Command::Get(key) => scope.call(get, key),
//!         Command::Writes => scope.call(writes, ()),
//!     });
//!     let app = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Json::new(Lines::new())))
//!         .layer(SessionLayer::new())
//!         .service(handler);
//!
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     tokio::spawn(getty::serve(listener, app).into_future());
//!
//!     let first = talk(address, [r#"{"set":{"key":"tea","value":"hot"}}"#]).await?;
//!     assert_eq!(first, [r#"{"value":null}"#]);
//!     let second = talk(address, [r#"{"get":"tea"}"#, r#""writes""#]).await?;
//!     assert_eq!(second, [r#"{"value":"hot"}"#, r#"{"writes":1}"#]);
//!     Ok(())
//! }
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
//! # Open sets of messages
//!
//! A `match` suits an enum that one crate defines. A [`Router`](crate::Router) suits messages
//! that are found by a name or a number, when modules add routes. Here the messages are
//! `{"type": .., "data": ..}`:
//!
//! ```
//! use getty::{CodecLayer, Pipeline, Router, ServiceBuilder, SessionLayer, State};
//! use getty::{codec::{self, Lines}, handler::{Json, Tagged}};
//! use getty::layers::{HandleErrorLayer, HandleMalformedLayer};
//! use tokio::net::TcpStream;
//!
//! #[derive(serde::Deserialize)]
//! struct Add {
//!     a: i64,
//!     b: i64,
//! }
//!
//! #[derive(serde::Serialize)]
//! struct Answer(String);
//!
//! #[derive(Clone)]
//! struct Motd(&'static str);
//!
//! fn add(Json(Add { a, b }): Json<Add>) -> Answer {
//!     Answer(a.wrapping_add(b).to_string())
//! }
//!
//! fn motd(State(Motd(text)): State<Motd>) -> Answer {
//!     Answer(text.to_owned())
//! }
//!
//! fn app() -> impl Pipeline<TcpStream> {
//!     let arithmetic = Router::<Tagged, Answer>::new().route("add", add);
//!     let router = Router::<Tagged, Answer, _>::with_state(Motd("hello"))
//!         .route("motd", motd)
//!         .merge(arithmetic);
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Json::new(Lines::new()).tolerant()))
//!         .layer(SessionLayer::new())
//!         .layer(HandleMalformedLayer::new(|error| Answer(error.to_string())))
//!         .layer(HandleErrorLayer::new(|error| Answer(error.to_string())))
//!         .service(router)
//! }
//! # let _ = app();
//! ```
//!
//! # Lines that matter
//!
//! - `scope.call(handler, content)`: the first argument of the handler is the content or made
//!   from it. The others are made from the session and the state.
//! - `impl PartOf<App> for Items`: a handler takes the part that it needs. A test of the
//!   handler needs that part only.
//! - `Router::<Tagged, Answer, _>`: the types of the messages are named at the start, so that
//!   errors of the compiler name the wrong handler.
//! - `merge`: a module has a router of its routes, and may have a different state.
//!
//! # Limits and errors
//!
//! - The state is cloned for each message. It should be an `Arc` or a struct of a few.
//! - A handler must not hold the guard of a `std::sync::Mutex` across an `await`. The future is
//!   then not `Send` and does not compile.
//! - A message without a route fails with [`NoRoute`](crate::handler::NoRoute), and data of a
//!   wrong type with [`Malformed`](crate::codec::Malformed). Both close the session without a
//!   [`HandleErrorLayer`](crate::layers::HandleErrorLayer).
//! - Two routes with one key panic when the router is built.
