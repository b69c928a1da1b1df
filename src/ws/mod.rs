//! WebSocket sessions: the same stack over `ws://`, and over `wss://` behind TLS.
//!
//! [`WsLayer`] changes the transport. In a stack it belongs inside TLS and outside
//! `CodecLayer`. It turns a byte stream into a transport that keeps message boundaries: each
//! WebSocket message is exactly one message of the codec.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Text, net};
//! use getty::layers::HeartbeatLayer;
//! use getty::ws::{Messages, WsConnectLayer, WsLayer};
//! use std::time::Duration;
//! use getty::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let shout = ServiceBuilder::new()
//!     .layer(WsLayer::new().with_path("/shout").with_messages(Messages::Text))
//!     .layer(CodecLayer::new(Text::new()))
//!     .layer(HeartbeatLayer::ping(Duration::from_secs(30)))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(request.into_message().to_uppercase())
//!     });
//! let listener = net::TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("ws://{}/shout", listener.local_addr()?);
//! tokio::spawn(getty::serve(listener, shout).into_future());
//!
//! let connector = WsConnectLayer::new()
//!     .with_messages(Messages::Text)
//!     .layer(net::TcpConnector::new());
//! let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = getty::connect(connector, url, |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Text::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             let sender = sender.clone();
//!             async move {
//!                 sender.send(request.into_message()).await?;
//!                 Ok::<_, BoxError>(None)
//!             }
//!         })
//! })
//! .await?;
//! session.send("hello".to_owned()).await?;
//! assert_eq!(receiver.recv().await.as_deref(), Some("HELLO"));
//! # Ok(())
//! # }
//! ```
//!
//! # Text and binary
//!
//! A codec works on bytes. The kind of message that carries these bytes is a setting of the
//! layer, [`Messages`]. It is binary by default, and should be text for scripts in a browser.
//! Applications that use both kinds need [`MessageCodec`].
//!
//! # A byte stream
//!
//! Protocols such as MQTT and STOMP use WebSocket as a tunnel for a byte stream. With
//! [`WsLayer::as_stream`] a codec for byte streams works over it; see [`WsStream`].
//!
//! # Control frames
//!
//! The transport answers pings independently of the handlers, as long as fewer undecoded bytes
//! wait than the session reads ahead (64 KiB). Pings and pongs count as activity of the peer as
//! all bytes do. [`HeartbeatLayer::ping`](crate::layers::HeartbeatLayer::ping) sends pings.
//!
//! # Closing
//!
//! A session that closes sends a close frame with the code for its
//! [`CloseReason`](crate::CloseReason). It then waits for the peer's close frame, at most until
//! its drain deadline. `close_with(WsClose::new(4001, "..."))` sets the code. [`WsClose::of`]
//! returns the code with which a session ended, from its [`Closed`](crate::Closed) record.
//!
//! | reason | code |
//! |---|---|
//! | `Local` | 1000 |
//! | `Shutdown`, `IdleTimeout`, `LifetimeExpired` | 1001 |
//! | `Application`, defined by the application | 4000 + its code |
//! | `Protocol`, of this side: protocol error, text refused, bad UTF-8, too long | 1002, 1003, 1007, 1009 |
//! | `Decode` | 1007 |
//! | `ReadTimeout`, `SlowConsumer`, `TakenOver` | 1008 |
//! | `Handler`, `Panicked`, `Encode`, `HeartbeatMissed`, `UpgradeFailed`, others | 1011 |
//! | `Protocol`, from `close_with` | the given code |
//!
//! A close frame from the peer is answered with the same code. Handlers in flight may still
//! finish, but nothing more is sent: a pending `send` fails because the session is closed. The
//! reason is `PeerClosed` with the [`WsClose`] as its source. A connection that ends without a
//! close frame closes as `Protocol` with code 1006, which is never sent.
//!
//! # Compression
//!
//! With the feature `compression`, `WsLayer::with_deflate` and `WsConnectLayer::with_deflate`
//! compress messages with permessage-deflate (RFC 7692) if the peer supports it. The default is
//! no compression: a client that offers the extension is answered without it and will send
//! uncompressed messages.
//!
//! ```
//! # #[cfg(feature = "compression")] {
//! use getty::ws::{Deflate, WsLayer};
//!
//! let layer = WsLayer::new().with_deflate(Deflate::new().with_threshold(1024));
//! # }
//! ```
//!
//! - *Context*: by default each message is compressed alone, and no context is kept for the
//!   next one. Similar short messages need fewer bytes with
//!   [`with_sender_takeover`](Deflate::with_sender_takeover), which takes contexts from a pool.
//!   The peer must not use a context: a server answers each offer with
//!   `client_no_context_takeover`, and a client requires `server_no_context_takeover`. A server
//!   answers the latter only if it was offered, because some clients fail otherwise. Other
//!   clients keep an inflater for their direction.
//! - *Threshold*: messages below 512 bytes are sent plain. Messages that would not become
//!   shorter are sent plain as well.
//! - *Limits*: the maximum of a message bounds its inflated bytes before memory is allocated
//!   for them. A longer message closes the session with code 1009. Its compressed bytes are
//!   bounded by the maximum plus 1/8 and 64. The maximum of a frame applies to the bytes on the
//!   wire.
//! - *Errors*: invalid deflate data closes the session with code 1007. Text is checked as it is
//!   inflated.
//! - *Groups*: a broadcast is compressed once for all sessions of a layer that have agreed on
//!   the same window.
//! - *Statistics*: inflated bytes are counted. The result of a `send` counts them as well.
//!
//! Approximate time for one message at the default level 1. It depends on the processor:
//!
//! | message | length | compressed | time to compress | time to inflate |
//! |---|--:|--:|--:|--:|
//! | JSON | 100 B | 96 B | 4 to 7 µs | 0.3 µs |
//! | JSON | 1 KiB | 312 B | 5 to 9 µs | 0.7 µs |
//! | JSON | 16 KiB | 3.4 KiB | 65 µs | 27 µs |
//! | random bytes | 1 KiB | sent plain | 20 µs | |
//! | random bytes | 16 KiB | sent plain | 240 µs | |
//!
//! Level 6 compresses the JSON of 1 KiB to 238 bytes in 30 µs. The JSON of 16 KiB takes 290 µs
//! and becomes 2.3 KiB.
//!
//! *Memory*: an idle session holds 80 bytes more than without compression. Each thread keeps up
//! to two compressors of about 380 KiB and up to four inflaters of 48 KiB. A session whose
//! compressed message has arrived in part holds an inflater in addition to the inflated bytes.
//!
//! *Security*: the length of a compressed message depends on its content, and TLS does not hide
//! lengths. An attacker may choose a part of a message that also contains a secret. The message
//! is then shorter if the attacker's part repeats a part of the secret. The attacks CRIME and
//! BREACH guess secrets in this way. Compression is therefore off by default. It must not be
//! used for such messages: `Deflate::with_filter` can leave them plain. Messages share no
//! context. A secret in one message is therefore safe from text in another.

mod client;
mod close;
#[cfg(feature = "compression")]
mod deflate;
#[cfg(not(feature = "compression"))]
#[path = "no_deflate.rs"]
mod deflate;
mod detect;
mod error;
mod handshake;
mod layer;
mod message;
mod stream;
mod transport;
mod upgrade;

/// Types of HTTP requests and responses: methods, header fields, status codes.
pub use http;

#[cfg(feature = "tls")]
pub use self::client::{MaybeTls, WsUrlConnect, WsUrlConnectLayer};
#[cfg(feature = "compression")]
pub use self::deflate::{Deflate, WsDeflate};
pub use self::{
    client::{WsConnect, WsConnectError, WsConnectLayer, WsConnecting},
    close::WsClose,
    detect::{WsOrRaw, WsOrRawLayer, WsOrRawTransport},
    error::WsError,
    handshake::{WsHandshakeError, WsRefusal, WsRequest},
    layer::{Ws, WsLayer},
    message::{Message, MessageCodec, Messages, Utf8},
    stream::{AsStream, AsStreamLayer},
    transport::{DEFAULT_MAX_MESSAGE, WsStream, WsTransport},
    upgrade::{WsListener, WsUpgrader, upgrades},
};
