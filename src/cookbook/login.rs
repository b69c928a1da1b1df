//! A login, then state of the user.
//!
//! A session must log in before it may do anything else. Afterwards each handler needs the
//! user, and a forgotten check must not compile.
//!
//! # Program
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use getty::{BoxError, CodecLayer, Rejection, Reply, ServiceBuilder, Session, SessionLayer};
//! use getty::{State, codec::{Json, Lines}, dispatch, handler::FromSession, net::TcpListener};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Command {
//!     Login { name: String, password: String },
//!     Note(String),
//!     Notes,
//! }
//!
//! #[derive(Clone, Debug, Serialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Event {
//!     Welcome(String),
//!     Notes(Vec<String>),
//!     Error(&'static str),
//! }
//!
//! /// A user who has logged in. Its clones share the notes.
//! #[derive(Clone)]
//! struct Member {
//!     name: String,
//!     notes: Arc<Mutex<Vec<String>>>,
//! }
//!
//! impl<S> FromSession<Event, S> for Member {
//!     fn from_session(session: &Session<Event>, _: &S) -> Result<Self, Rejection<Event>> {
//!         let member = session.get::<Self>();
//!         member.ok_or_else(|| Rejection::reply(Event::Error("log in first")))
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Users;
//!
//! impl Users {
//!     async fn check(&self, name: &str, password: &str) -> bool {
//!         (name, password) == ("ada", "lovelace") // a query of a database
//!     }
//! }
//!
//! async fn login(
//!     (name, password): (String, String),
//!     session: Session<Event>,
//!     State(users): State<Users>,
//! ) -> Result<Event, Reply<Event>> {
//!     if !users.check(&name, &password).await {
//!         return Err(Reply::one(Event::Error("wrong name or password")).and_close());
//!     }
//!     session.set_name(&*name); // for logs
//!     session.insert(Member { name: name.clone(), notes: Arc::default() });
//!     Ok(Event::Welcome(name))
//! }
//!
//! fn note(text: String, Member { name, notes }: Member) -> Event {
//!     let mut notes = notes.lock().unwrap();
//!     notes.push(format!("{name}: {text}"));
//!     Event::Notes(notes.clone())
//! }
//!
//! fn notes(member: Member) -> Event {
//!     Event::Notes(member.notes.lock().unwrap().clone())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let handler = dispatch(Users, async |command, scope| match command {
//!         Command::Login { name, password } => scope.call(login, (name, password)).await,
//!         Command::Note(text) => scope.call(note, text).await,
//!         Command::Notes => scope.call(notes, ()).await,
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
//!     let commands = [
//!         r#"{"note":"too early"}"#,
//!         r#"{"login":{"name":"ada","password":"lovelace"}}"#,
//!         r#"{"note":"hello"}"#,
//!     ];
//!     let events = [
//!         r#"{"error":"log in first"}"#,
//!         r#"{"welcome":"ada"}"#,
//!         r#"{"notes":["ada: hello"]}"#,
//!     ];
//!     assert_eq!(talk(address, commands).await?, events);
//!     let guess = [r#"{"login":{"name":"ada","password":"guess"}}"#, r#""notes""#];
//!     assert_eq!(talk(address, guess).await?, [r#"{"error":"wrong name or password"}"#]);
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
//! # Lines that matter
//!
//! - `session.insert(Member { .. })`: an attribute is state of one session. Layers, handlers
//!   and close callbacks can read it with [`get`](crate::ConnectionHandle::get). It is dropped
//!   with the session.
//! - `impl FromSession for Member`: a handler with this argument is not called before the
//!   login. It is made before the first argument, so a payload such as `handler::Json<T>` is
//!   not decoded without a login.
//! - `Err(Reply::one(..).and_close())`: a reply is also an error type. The session closes after
//!   the reply is flushed.
//!
//! # Limits and errors
//!
//! - An attribute is cloned for each message, so a large state belongs in an `Arc`.
//! - A `dispatch` or a `Router` handles one message of a session at a time by default. With
//!   [`with_in_flight`](crate::SessionLayer::with_in_flight) a message may be handled before an
//!   earlier login has finished.
//! - A session without a login stays open while it sends messages. An
//!   [`IntervalLayer`](crate::layers::IntervalLayer) can close sessions without a `Member`.
//! - For handlers of a `Router` see [`Router::with_state_of`](crate::Router::with_state_of).
//!   For an object per session with methods see [`handle_mut`](crate::handler::handle_mut).
