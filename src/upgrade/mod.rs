//! Connections that change after their start: a dialogue before the session, TLS or another
//! codec in mid-connection.
//!
//! | the protocol | use |
//! |---|---|
//! | begins with messages of other types than its session: a login, a head, an `SSLRequest` | [`OpeningLayer`] |
//! | changes its framing, and messages of both kinds belong to the session | [`codec::Switch`](crate::codec::Switch) |
//! | becomes TLS in an open session, such as SMTP after `STARTTLS` | `StartTlsLayer` of [`session`] |
//! | becomes another byte stream in an open session | [`UpgradeLayer`] |
//! | is TLS or WebSocket from its first byte | `TlsLayer` or `WsLayer` |
//!
//! The choice depends on where the types change. A [`Session`](crate::Session) has one type of
//! received and one of sent messages. An agreement that needs other types must come before the
//! session: it is a dialogue. A dialogue is a function with an `await` for each message. The
//! handler of the session then never sees a message of the agreement.
//!
//! # A dialogue before the session
//!
//! [`OpeningLayer`] calls a function with an [`Opening`]: the transport with a codec. The
//! function receives and sends messages and returns the connection for the rest of the stack.
//! [`OpeningConnectLayer`] does the same for a client around a connector. This server and this
//! client log in with lines of text and then exchange binary frames:
//!
//! ```
//! use getty::codec::{Bytes, LengthDelimited, Lines};
//! use getty::upgrade::{Opening, OpeningConnectLayer, OpeningLayer};
//! use getty::{Attribute, BoxError, CodecLayer, NoReply, ServiceBuilder, SessionLayer};
//! use getty::{connect, handle, net};
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! fn echo(frame: Bytes, Attribute(User(name)): Attribute<User>) -> Bytes {
//!     [name.as_bytes(), b": ", &frame].concat().into()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let (listener, connector) = net::memory(1024);
//! let app = ServiceBuilder::new()
//!     .layer(OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
//!         let name = dialogue.receive().await?.ok_or("no login")?;
//!         if name.is_empty() {
//!             return Err(dialogue.refuse("who are you?", "no name").await);
//!         }
//!         dialogue.handle().insert(User(name));
//!         dialogue.send("welcome").await?;
//!         Ok(dialogue.carry()?)
//!     }))
//!     .layer(CodecLayer::new(LengthDelimited::new()))
//!     .layer(SessionLayer::new())
//!     .service(handle(echo));
//! tokio::spawn(getty::serve(listener, app).into_future());
//!
//! let connector = ServiceBuilder::new()
//!     .layer(OpeningConnectLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
//!         dialogue.send("ada").await?;
//!         let answer = dialogue.receive().await?.ok_or("no answer")?;
//!         if answer != "welcome" {
//!             return Err(answer.into());
//!         }
//!         Ok(dialogue.carry()?)
//!     }))
//!     .service(connector);
//! let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = connect(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(LengthDelimited::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service(handle(async move |frame: Bytes| {
//!             let _ = sender.send(frame).await;
//!             NoReply
//!         }))
//! })
//! .await?;
//! session.send(Bytes::from("hi")).await?;
//! assert_eq!(receiver.recv().await.unwrap(), "ada: hi");
//! # Ok(())
//! # }
//! ```
//!
//! The dialogue has a deadline of 10 s, and its messages have a maximum of 64 KiB. A close of
//! the connection ends it at once. A shutdown of the server ends it, as it ends all connections
//! that are not open yet.
//!
//! ## TLS after a request
//!
//! With the feature `tls`, `Opening::start_tls` runs a TLS handshake in the dialogue, in either
//! role. Postgres begins with an `SSLRequest`, whose answer is a single byte:
//!
//! ```
//! # #[cfg(feature = "tls")]
//! # mod tls {
//! use getty::tls::{TlsLayer, TlsStream};
//! use getty::{BoxError, Connection, codec::Lines, transport::ByteStream, upgrade::Opening};
//!
//! const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
//!
//! async fn open<T: ByteStream>(
//!     mut dialogue: Opening<T, Lines>,
//!     tls: TlsLayer,
//! ) -> Result<Connection<TlsStream<T>>, BoxError> {
//!     let mut request = [0; 8];
//!     dialogue.read_exact(&mut request).await?;
//!     if request != SSL_REQUEST {
//!         return Err("no SSLRequest".into());
//!     }
//!     dialogue.write_all(b"S").await?;
//!     Ok(dialogue.start_tls(&tls).await?.into_connection()?)
//! }
//! # }
//! ```
//!
//! The example `postgres` is a server for `psql`.
//!
//! Bytes that arrive behind the request are not encrypted. If they were used as a part of the
//! encrypted session, an attacker in the network could inject commands or answers
//! (CVE-2021-23222). `start_tls` fails with [`OpeningError::ReadAhead`] if it finds such bytes,
//! and the TLS handshake fails on those that arrive later. A server should also forget the
//! messages before TLS. A client must not continue without TLS if the server refuses it,
//! because an attacker can send that refusal.
//!
//! # Which transport
//!
//! A stack with one of these layers serves one type of transport, which can be any
//! [`ByteStream`](crate::transport::ByteStream). For several listeners, box the streams outside
//! the layer:
//!
//! ```
//! use getty::codec::Lines;
//! use getty::upgrade::{Opening, OpeningLayer};
//! use getty::{Connection, CodecLayer, Pipeline, ServiceBuilder, SessionLayer, handle};
//! use getty::transport::ByteStream;
//!
//! fn app<T: ByteStream>() -> impl Pipeline<T> + Clone {
//!     ServiceBuilder::new()
//!         .map_request(|connection: Connection<T>| {
//!             connection.map_transport(|io| Box::new(io) as Box<dyn ByteStream>)
//!         })
//!         .layer(OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
//!             dialogue.receive().await?.ok_or("no login")?;
//!             Ok(dialogue.carry()?)
//!         }))
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .service(handle(|line: String| line))
//! }
//! # let _ = app::<tokio::net::TcpStream>;
//! ```
//!
//! # Another codec in the session
//!
//! [`codec::Switch`](crate::codec::Switch) replaces the framing of an open session, which keeps
//! its handle, its queue and its timeouts. Its messages are an enum of both kinds. RESP3 is an
//! example: a Redis client may send `HELLO 3` at any time. Its module has a program.
//!
//! # TLS in an open session
//!
//! In SMTP and IMAP a client may send `STARTTLS` at any time before its login. The session goes
//! on with the same types, codec and handler. [`session`] has the layers for that and their
//! rules.

mod opening;
pub mod session;

#[cfg(feature = "tls")]
pub use self::opening::StartTls;
pub use self::opening::{
    Opening, OpeningConnect, OpeningConnectLayer, OpeningConnecting, OpeningError, OpeningLayer,
    OpeningService,
};
pub use self::session::{
    BytesBeforeUpgrade, Carry, Refuse, Upgradable, UpgradeError, UpgradeLayer, UpgradeService,
};
#[cfg(feature = "tls")]
pub use self::session::{
    StartTlsConnect, StartTlsConnectLayer, StartTlsConnecting, StartTlsLayer, StartTlsService,
};
