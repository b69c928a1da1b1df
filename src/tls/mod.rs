//! TLS: the same stack over `tls://`, by a layer.
//!
//! [`TlsLayer`] takes a server's handshakes and turns `Connection<T>` into `Connection<TlsStream<T>>`, over any byte
//! stream. [`TlsConnectLayer`] does the same for a client, around a connector. What protects the connection stands in its
//! [`TlsInfo`], an attribute of the handle. It is rustls that speaks TLS: versions 1.2 and 1.3, and nothing older.
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
//! # let (chain, key) = (Pem::inline(made.cert.pem()), Pem::inline(made.signing_key.serialize_pem()));
//! # let roots = chain.clone();
//! let config = ServerTls::new(chain, key) // paths of PEM files, as a rule
//!     .with_alpn(["shout/1"])
//!     .load()?;
//! let app = ServiceBuilder::new()
//!     .concurrency_limit(10_000)
//!     .layer(TlsLayer::new(config.clone())) // keep one, to `reload` it
//!     .layer(CodecLayer::new(codec::Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         let tls: TlsInfo = request.session().get().ok_or("not secured")?;
//!         Ok::<_, BoxError>(format!("{:?} {}", tls.version(), request.message().to_uppercase()))
//!     });
//! let (listener, connector) = net::memory(64 * 1024);
//! tokio::spawn(async move { getty::serve(listener, app).await });
//!
//! let config = ClientTls::new() // trusts the system's roots, unless it is given others
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
//! # How a session over TLS ends
//!
//! Our close sends what is left to send, then a `close_notify`, then ends the stream. A peer that sends a `close_notify`
//! has ended its direction and still gets its answers, as over TCP. A stream that ends *without* one was cut off, by a
//! crash or by somebody on the way: that is no end, and the session closes as
//! [`CloseReason::Io`](crate::CloseReason::Io) with an [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) as its
//! source. So does one whose records were tampered with, with what rustls found.
//!
//! # What it costs
//!
//! The handle's statistics count the bytes of messages; records and handshakes are not seen there. An idle session holds
//! some 8 KiB beside the connection itself, of which rustls keeps 4 KiB to read into. What is written in one turn leaves
//! in records of up to 16 KiB, two of them a write.

mod config;
mod connect;
mod error;
mod handshake;
mod hello;
mod info;
mod layer;
mod stream;
mod target;

pub use self::{
    config::{ClientTls, Pem, ServerTls, TlsConfig, TlsConfigError},
    connect::{TlsConnect, TlsConnectLayer, TlsConnecting},
    error::TlsError,
    info::TlsInfo,
    layer::{ResponseFuture, Tls, TlsLayer},
    stream::TlsStream,
    target::TlsTarget,
};
/// rustls itself, for configurations of your own and for what is in the errors.
pub use tokio_rustls::rustls;
