//! Rooms: a message for all members.
//!
//! Sessions join rooms, and a message to a room must reach all its members. A member that reads
//! slowly must not delay the others.
//!
//! # Program
//!
//! ```
//! use futures_util::{SinkExt, StreamExt};
//! use getty::{BoxError, CodecLayer, NoReply, Rejection, ServiceBuilder, Session};
//! use getty::{SessionLayer, SlowConsumer, State, Topics, dispatch, net::TcpListener};
//! use getty::codec::{Json, Lines};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Command {
//!     Join(String),
//!     Leave(String),
//!     Say { room: String, text: String },
//! }
//!
//! #[derive(Clone, Debug, Serialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Event {
//!     Joined(String),
//!     Said { room: String, text: String },
//!     Missed(u64),
//!     Error(&'static str),
//! }
//!
//! type Rooms = Topics<String, Event>;
//!
//! async fn join(
//!     room: String,
//!     session: Session<Event>,
//!     State(rooms): State<Rooms>,
//! ) -> Result<NoReply, Rejection<Event>> {
//!     if rooms.count_of(&session) >= 100 {
//!         return Err(Rejection::reply(Event::Error("too many rooms")));
//!     }
//!     session.feed(Event::Joined(room.clone())).await?;
//!     rooms.join(room, &session);
//!     Ok(NoReply)
//! }
//!
//! fn leave(room: String, session: Session<Event>, State(rooms): State<Rooms>) -> NoReply {
//!     rooms.leave(&room, &session);
//!     NoReply
//! }
//!
//! fn say(
//!     (room, text): (String, String),
//!     session: Session<Event>,
//!     State(rooms): State<Rooms>,
//! ) -> Result<NoReply, Event> {
//!     if !rooms.contains(&room, &session) {
//!         return Err(Event::Error("join the room first"));
//!     }
//!     rooms.broadcast_except(&room.clone(), &session, Event::Said { room, text });
//!     Ok(NoReply)
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let rooms = Rooms::builder()
//!         .with_policy(SlowConsumer::DropOldest)
//!         .with_notice(Event::Missed)
//!         .build();
//!     let handler = dispatch(rooms, async |command, scope| match command {
//!         Command::Join(room) => scope.call(join, room).await,
//!         Command::Leave(room) => scope.call(leave, room).await,
//!         Command::Say { room, text } => scope.call(say, (room, text)).await,
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
//!     let (mut ada, mut bob) = (open(address).await?, open(address).await?);
//!     for peer in [&mut ada, &mut bob] {
//!         peer.send(r#"{"join":"tea"}"#).await?;
//!         assert_eq!(peer.next().await.unwrap()?, r#"{"joined":"tea"}"#);
//!     }
//!     ada.send(r#"{"say":{"room":"tea","text":"hello"}}"#).await?;
//!     let heard = bob.next().await.unwrap()?;
//!     assert_eq!(heard, r#"{"said":{"room":"tea","text":"hello"}}"#);
//!     bob.send(r#"{"say":{"room":"coffee","text":"hello"}}"#).await?;
//!     assert_eq!(bob.next().await.unwrap()?, r#"{"error":"join the room first"}"#);
//!     Ok(())
//! }
//! # use tokio_util::codec::{Framed, LinesCodec};
//! # type Peer = Framed<tokio::net::TcpStream, LinesCodec>;
//! # async fn open(address: std::net::SocketAddr) -> std::io::Result<Peer> {
//! #     let stream = tokio::net::TcpStream::connect(address).await?;
//! #     Ok(Peer::new(stream, LinesCodec::new()))
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `session.feed(..)` before `rooms.join(..)`: the confirmation precedes all messages of the
//!   room. A returned reply may follow messages that other sessions send meanwhile.
//! - `broadcast_except`: encodes the event once for all members, queues it and never waits. Its
//!   [`Report`](crate::layers::group::Report) has the numbers of members that received and
//!   missed it.
//! - `with_policy` and `with_notice`: a member whose queue is full loses the oldest events. It
//!   then gets an `Event::Missed` with their number.
//! - `Result<NoReply, Rejection<Event>>`: `Rejection::reply` replies, and `?` converts other
//!   errors, which close the session.
//! - A session leaves its rooms when it closes. A room exists while it has members.
//!
//! # Limits and errors
//!
//! - A member may have up to 1 MiB of queued broadcasts
//!   ([`with_queue_bytes`](crate::SessionLayer::with_queue_bytes)). See
//!   [`group`](crate::layers::group#room) for what counts.
//! - The number of rooms has no limit, because clients name them. `count_of` limits them for
//!   each session.
//! - Events of two senders may arrive in different orders at different members.
//! - The rooms are in the memory of one process. Several processes need a broker, whose
//!   messages each process broadcasts.
