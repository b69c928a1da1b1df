//! Connections that change after their start: a dialogue before the session, TLS or another
//! codec in mid-connection.
//!
//! | the protocol | use |
//! |---|---|
//! | begins with messages of other types than its session: a login, a head, an `SSLRequest` | [`OpeningLayer`] |
//! | changes its framing, and messages of both kinds belong to the session | [`codec::Switch`](crate::codec::Switch) |
//! | becomes TLS in an open session, such as SMTP after `STARTTLS` | `StartTlsLayer` |
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
//! example: a Redis client may send `HELLO 3` at any time.
//!
//! # Upgrade of an open session
//!
//! `StartTlsLayer` upgrades an open session to TLS. [`UpgradeLayer`] upgrades it by a function.
//!
//! A protocol such as SMTP, IMAP, LDAP or XMPP begins in plain text, and the peers agree to
//! continue over TLS. In SMTP and IMAP a client may send `STARTTLS` at any time before its
//! login. The session stays the same. It keeps its handler and codec, its `In` and
//! `Out`, its attributes, callbacks and statistics. Every clone of its
//! [`Session`](crate::Session) may be used as before. A protocol with other messages after the
//! upgrade must run the dialogue before the session.
//!
//! A handler requests the upgrade with its reply, in either role:
//!
//! - a server returns its go-ahead with [`Reply::and_upgrade`](crate::Reply::and_upgrade);
//! - a client returns `Reply::none().and_upgrade()` once the server's go-ahead has arrived.
//!
//! It works with [`handle`](crate::handle), [`Router`](crate::handler::Router) and every other
//! message stack. `StartTlsLayer` has an example with both roles.
//!
//! ## Place in the stack
//!
//! The layer replaces the transport, so it must be outside `CodecLayer`, where `TlsLayer` would
//! be. Inside `CodecLayer` it does not compile. Neither does another layer for byte streams
//! between it and `CodecLayer`, such as `TlsLayer` or `WsLayer`: an [`Upgradable`] is a
//! [`Transport`](crate::Transport) and no byte stream. Without the layer, a reply that upgrades
//! closes the session as [`CloseReason::UpgradeFailed`].
//!
//! | property | of these layers |
//! |---|---|
//! | *ready* | polls the inner service or connector |
//! | *call* | wraps the transport, and calls the inner service |
//! | *drop* | drops the connection; during a handshake the handshake with its transport |
//! | *close* | before the handshake, as without the layer; during it, the connection is dropped at once; after it, as over the new transport |
//! | scope | the configuration is shared by all clones, the deadline applies to each upgrade |
//!
//! ## Rules of an upgrade
//!
//! 1. Once the session has taken the reply, nothing is decoded until the upgrade is complete.
//! 2. Bytes of the peer that have arrived behind the request refuse the upgrade. So do messages
//!    that were decoded ahead, and other handlers in flight. The session closes as
//!    [`CloseReason::Decode`] with [`BytesBeforeUpgrade`], and the go-ahead is not sent.
//!    [`UpgradeLayer::carry`] hands undecoded bytes over instead.
//! 3. The reply and all messages that were queued before it leave through the old transport
//!    before the first byte of the handshake.
//! 4. Messages that are sent afterwards wait in the queue and leave through the new transport.
//!    A [`send`](crate::Session::send) resolves when its own message is flushed. No plain byte
//!    follows, even if the upgrade fails: queued messages then fail.
//! 5. A handshake has 10 s by default, counted from the flush of the reply, and closes the
//!    session as [`CloseReason::HandshakeTimeout`]. Any other failure closes it as
//!    [`CloseReason::UpgradeFailed`], with the `TlsError` or the error of the function as its
//!    source. There is no fallback to the old transport.
//! 6. Idle timeouts and missing responses to heartbeats wait during the handshake, because the
//!    session does not read. Heartbeats wait in the queue. The other deadlines of layers still
//!    apply. A close ends the handshake at once.
//! 7. After an upgrade to TLS, [`transport`](crate::ConnectionHandle::transport) returns `Tls`,
//!    and the `TlsInfo` is an attribute. [`upgraded`](crate::ConnectionHandle::upgraded)
//!    resolves.
//! 8. Both transports are byte streams.
//! 9. A session can be upgraded once. Handlers of a session that is upgraded must run one at a
//!    time: [`with_in_flight`](crate::SessionLayer::with_in_flight) above 1 fails with
//!    [`UpgradeError::SeveralHandlers`].
//! 10. A peer that has ended its direction before the upgrade refuses it.
//!
//! ## Security
//!
//! Before the upgrade, an attacker on the path can read and change everything.
//!
//! - **Forget.** A server must forget all state from before TLS, such as the client's name and
//!   a recipient (RFC 3207, section 4.2). The state of the handler and attributes stay, so the
//!   handler must reset them. The example `smtp` does it.
//! - **Require TLS.** An attacker can remove the server's offer or refuse the client's request
//!   in the server's name (stripping). A client must end the session if TLS is refused. It must
//!   not send secrets before [`upgraded`](crate::ConnectionHandle::upgraded) has returned
//!   `true`. Only a name or port that implies TLS from the first byte, with `TlsLayer`, avoids
//!   the plain dialogue.
//! - **Injection.** Without rule 2, bytes from before the upgrade could be taken for bytes
//!   from after it, as in CVE-2021-23222 and CVE-2011-0411. The rule applies to servers and to
//!   clients. A client that sends its `ClientHello` before the go-ahead may be refused. Bytes
//!   that arrive later become part of the handshake, which then fails.
//! - **Codecs.** A codec must leave an incomplete message in its buffer. A codec that moves the
//!   head of a message into its own state could combine it with bytes from after the upgrade.
//!   Getty's codecs leave it. Complete messages and bytes behind them may be held, as
//!   [`Frames`](crate::codec::Frames) does. The session asks the codec for the next message before
//!   an upgrade. A message refuses the upgrade, and bytes that the codec puts back into the empty
//!   buffer count as undecoded.
//!
//! ## Costs
//!
//! Each read and write of an [`Upgradable`] takes one more branch. A connection takes three
//! more words. Sessions without such a layer cost the same as before.
//!
//! [`CloseReason::Decode`]: crate::CloseReason::Decode
//! [`CloseReason::HandshakeTimeout`]: crate::CloseReason::HandshakeTimeout
//! [`CloseReason::UpgradeFailed`]: crate::CloseReason::UpgradeFailed

mod opening;
mod session;

#[cfg(feature = "tls")]
pub use self::opening::StartTls;
pub use self::opening::{
    Opening, OpeningConnect, OpeningConnectLayer, OpeningConnecting, OpeningError, OpeningLayer,
    OpeningService,
};
#[cfg(test)]
pub(crate) use self::session::Upgrade;
pub use self::session::{
    BytesBeforeUpgrade, Carry, Refuse, Upgradable, UpgradeError, UpgradeLayer, UpgradeService,
};
#[cfg(feature = "tls")]
pub use self::session::{
    StartTlsConnect, StartTlsConnectLayer, StartTlsConnecting, StartTlsLayer, StartTlsService,
};
