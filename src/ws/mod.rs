//! WebSocket: the same stack over `ws://`, and over `wss://` behind TLS.
//!
//! [`WsLayer`] stands where the transport is changed: inside TLS, outside `CodecLayer`. What it makes of a byte stream is
//! a transport that keeps message boundaries, so each WebSocket message is one message of the codec's, to its last byte.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Text, net};
//! use getty::layers::HeartbeatLayer;
//! use getty::ws::{Messages, WsConnectLayer, WsLayer};
//! use std::time::Duration;
//! use tower::Layer;
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
//! let url = format!("ws://{}/shout", net::Listener::local_addr(&listener)?);
//! tokio::spawn(getty::serve(listener, shout).into_future());
//!
//! let connector = WsConnectLayer::new()
//!     .with_messages(Messages::Text)
//!     .layer(net::TcpConnector::new());
//! let (heard, mut hears) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = getty::connect(connector, url, |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Text::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             let heard = heard.clone();
//!             async move {
//!                 heard.send(request.into_message()).await?;
//!                 Ok::<_, BoxError>(None)
//!             }
//!         })
//! })
//! .await?;
//! session.send("hello".to_owned()).await?;
//! assert_eq!(hears.recv().await.as_deref(), Some("HELLO"));
//! # Ok(())
//! # }
//! ```
//!
//! # Text and binary
//!
//! A codec works on bytes, and which kind of message carries them is a setting of the layer, [`Messages`]: binary by
//! default; text, for scripts in a browser; or both, for applications to which it matters, with [`MessageCodec`].
//!
//! # Control frames
//!
//! Pings are answered by the transport, whatever the handlers do, as long as fewer bytes wait for them than the session
//! reads ahead (64 KiB). Pings and pongs are activity of the peer's, as any bytes are;
//! [`HeartbeatLayer::ping`](crate::layers::HeartbeatLayer::ping) sends pings.
//!
//! # The end
//!
//! A session that closes sends a close frame, with the code for its [`CloseReason`](crate::CloseReason), and waits for
//! the peer's, at the longest until its drain deadline. `close_with(WsClose::new(4001, "..."))` says the code itself, and
//! [`WsClose::of`] tells from a [`Closed`](crate::Closed) with which code a session ended.
//!
//! | reason | code |
//! |---|---|
//! | `Local` | 1000 |
//! | `Shutdown`, `IdleTimeout`, `LifetimeExpired` | 1001 |
//! | `Protocol`, of ours: protocol error, bad UTF-8, too long | 1002, 1007, 1009 |
//! | `Decode` | 1007 |
//! | `ReadTimeout`, `SlowConsumer` | 1008 |
//! | `Handler`, `Panicked`, `Encode`, `HeartbeatMissed`, others | 1011 |
//! | `Protocol` by `close_with` | as said |
//!
//! A peer that sends a close frame has it answered with the same code. Handlers in flight still finish, but nothing more
//! is sent: who waits in a `send` learns that the session is closed. The reason is `PeerClosed`, with the [`WsClose`] as
//! its source. A connection that ends without a close frame closes as `Protocol` with code 1006, which is never sent.
//!
//! # Compression
//!
//! There is no permessage-deflate: tungstenite, whose frames these are, has neither the extension nor a way to add it.
//! A client that offers it is answered without it, as the protocol wants, and sends uncompressed.

mod client;
mod close;
mod detect;
mod error;
mod future;
mod handshake;
mod incoming;
mod layer;
mod mask;
mod message;
mod transport;
mod upgrade;

/// The vocabulary of requests and responses: methods, headers, status codes.
pub use http;

#[cfg(feature = "tls")]
pub use self::client::{MaybeTls, WsUrlConnect, WsUrlConnectLayer};
pub use self::{
    client::{WsConnect, WsConnectError, WsConnectLayer, WsConnecting},
    close::WsClose,
    detect::{WsOrRaw, WsOrRawFuture, WsOrRawLayer, WsOrRawTransport},
    error::WsError,
    future::WsFuture,
    handshake::{WsHandshakeError, WsRefusal, WsRequest},
    layer::{Ws, WsLayer},
    message::{Message, MessageCodec, Messages, Utf8},
    transport::WsTransport,
    upgrade::{WsListener, WsUpgrader, upgrades},
};

/// How long a message may be unless a layer says otherwise, in bytes: 64 KiB, as of every codec here.
pub const DEFAULT_MAX_MESSAGE: usize = crate::codec::MAX_FRAME;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// How long frames and messages may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    frame: usize,
    message: usize,
}

impl Limits {
    const DEFAULT: Self = Self {
        frame: usize::MAX,
        message: DEFAULT_MAX_MESSAGE,
    };
}
