//! TLS as a layer for servers and around connectors.
//!
//! [`TlsLayer`] runs the handshakes of a server and turns `Connection<T>` into
//! `Connection<TlsStream<T>>`, over any byte stream. [`TlsConnectLayer`] does the same for a
//! client around a connector. The parameters of a connection are in its [`TlsInfo`], an
//! attribute of the handle. The implementation is rustls with TLS 1.2 and 1.3 and no older
//! version.
//!
//! ```
//! use getty::{
//!     BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, net,
//!     tls::{ClientTls, Pem, ServerTls, TlsConnectLayer, TlsInfo, TlsLayer},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! # let chain = Pem::inline(made.cert.pem());
//! # let key = Pem::inline(made.signing_key.serialize_pem());
//! # let roots = chain.clone();
//! let config = ServerTls::new(chain, key) // usually paths of PEM files
//!     .with_alpn(["shout/1"])
//!     .load()?;
//! let app = ServiceBuilder::new()
//!     .concurrency_limit(10_000)
//!     .layer(TlsLayer::new(config.clone())) // keep a clone to `reload` it
//!     .layer(CodecLayer::new(codec::Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         let tls: TlsInfo = request.session().get().ok_or("not secured")?;
//!         let text = request.message().to_uppercase();
//!         Ok::<_, BoxError>(format!("{:?} {text}", tls.version()))
//!     });
//! let (listener, connector) = net::memory(64 * 1024);
//! tokio::spawn(async move { getty::serve(listener, app).await });
//!
//! let config = ClientTls::new() // trusts the system's roots by default
//!     .with_roots(roots)
//!     .with_alpn(["shout/1"])
//!     .load()?;
//! let connector = ServiceBuilder::new()
//!     .layer(TlsConnectLayer::new(config).with_server_name("localhost".try_into()?))
//!     .service(connector);
//! # let (answers, mut answer) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = getty::connect(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Lines::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             // ...
//! #           let answers = answers.clone();
//! #           async move {
//! #               answers.send(request.into_message()).await?;
//! #               Ok::<_, BoxError>(None)
//! #           }
//!         })
//! })
//! .await?;
//! session.send("hello".to_owned()).await?;
//! # assert_eq!(answer.recv().await.as_deref(), Some("TLSv1_3 HELLO"));
//! # Ok(())
//! # }
//! ```
//!
//! # Several names
//!
//! A server can present another certificate for each name with
//! [`ServerTls::with_certificate_for`]. With [`TlsLayer::choose`], a function decides on the
//! whole configuration by the name and the protocols that a client's first message contains. A
//! [`TlsRefusal`] sends its alert before the close. With a
//! [`ConnectionRouter`](crate::ConnectionRouter) each name has its own stack:
//!
//! ```
//! use getty::{BoxPipeline, ConnectionRouter, Pipeline, ServiceBuilder};
//! use getty::tls::{TlsConfig, TlsInfo, TlsLayer, TlsRefusal};
//! # use tokio::net::TcpStream;
//!
//! /// Serves two names on one port, each with its own configuration and stack.
//! fn front(
//!     [chat_tls, admin_tls]: [TlsConfig; 2],
//!     [chat, admin]: [BoxPipeline; 2],
//! ) -> impl Pipeline<TcpStream> + Clone {
//!     let tls = TlsLayer::choose(move |hello| match hello.server_name() {
//!         Some("chat.example.com") => Ok(chat_tls.clone()),
//!         Some("admin.example.com") => Ok(admin_tls.clone()),
//!         _ => Err(TlsRefusal::unrecognized_name()),
//!     });
//!     let name = |tls: TlsInfo| tls.server_name().map(str::to_owned);
//!     let router = ConnectionRouter::new(move |handle| handle.get().and_then(name))
//!         .with_route("chat.example.com".to_owned(), chat)
//!         .with_route("admin.example.com".to_owned(), admin);
//!     ServiceBuilder::new().layer(tls).service(router)
//! }
//! # let _ = front;
//! ```
//!
//! The name in [`TlsInfo`] is the one that the configuration was chosen by. A name inside the
//! session, such as the `Host` of an HTTP request, may differ. A stack must not grant what
//! belongs to another name.
//!
//! # TLS or plain on one port
//!
//! [`TlsOrPlainLayer`] takes the place of [`TlsLayer`] where some peers do not use TLS. See its
//! documentation for the risk of a downgrade.
//!
//! # Floods of handshakes
//!
//! The deadline from accept covers the `ClientHello`, a wait for the rate and the handshake.
//! [`TlsLayer::with_max_hello`] bounds the memory of a stalled hello.
//! [`PendingLimitLayer`](crate::layers::PendingLimitLayer) outside bounds the number of
//! connections whose session is not open.
//! [`TlsLayer::with_handshake_rate`] bounds the CPU for handshakes. Neither is per peer, so
//! place [`PeerLimitLayer`](crate::layers::PeerLimitLayer) outside as well.
//!
//! # Closing
//!
//! A session that closes sends its remaining output, then a `close_notify`, and then ends the
//! stream. A peer that sends a `close_notify` has ended its direction and still receives its
//! replies, as over TCP. A stream that ends *without* one was cut off by a crash or by an
//! attacker. This is not an orderly end: the session closes as
//! [`CloseReason::Io`](crate::CloseReason::Io) with an
//! [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) as its source. A session with
//! manipulated records closes in the same way with the error of rustls.
//!
//! # Costs
//!
//! The handle's statistics count the bytes of messages. They do not include records and
//! handshakes. An idle session holds some 8 KiB in addition to the connection. The read buffer
//! of rustls has 4 KiB of these. The output of one poll is sent in records of up to 16 KiB, two
//! per write.

mod choose;
mod config;
mod connect;
mod detect;
mod error;
mod handshake;
mod hello;
mod info;
mod layer;
mod rate;
mod refusal;
mod stream;
mod target;
mod upgrade;

pub(crate) use self::upgrade::{AcceptUpgrade, ConnectUpgrade};
pub use self::{
    choose::Hello,
    config::{ClientTls, Pem, ServerTls, TlsConfig, TlsConfigError},
    connect::{TlsConnect, TlsConnectLayer, TlsConnecting},
    detect::{TlsOrPlain, TlsOrPlainLayer, TlsOrPlainTransport},
    error::TlsError,
    info::TlsInfo,
    layer::{ResponseFuture, Tls, TlsLayer},
    refusal::TlsRefusal,
    stream::TlsStream,
    target::TlsTarget,
};
/// The rustls crate for other configurations and for the contents of errors.
pub use tokio_rustls::rustls;
