//! Network sessions as tower services: one stack of layers from the socket to the message handler.
//!
//! ```
//! use getty::{
//!     BoxError, CodecLayer, Listener, Reply, Request, ServiceBuilder, SessionLayer, codec::Lines,
//!     layers::TraceLayer, net,
//! };
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! tracing_subscriber::fmt::init();
//! let app = ServiceBuilder::new()
//!     // connection stack: called once per connection
//!     .layer(TraceLayer::new())
//!     .concurrency_limit(10_000)
//!     .layer(CodecLayer::new(Lines::new().with_max_length(512)))
//!     .layer(SessionLayer::new())
//!     // message stack: called once per message
//!     .concurrency_limit(64)
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(match request.message().as_str() {
//!             "QUIT" => Reply::one("bye".to_owned()).and_close(),
//!             line => Reply::one(line.to_ascii_uppercase()),
//!         })
//!     });
//!
//! let (listener, connector) = net::memory(1024);
//! println!("listening on {}", listener.local_addr()?);
//! tokio::spawn(getty::serve(listener, app).into_future());
//!
//! let mut client = connector.connect().await?.into_parts().0;
//! client.write_all(b"hello\nQUIT\n").await?;
//! let mut answers = String::new();
//! client.read_to_string(&mut answers).await?;
//! assert_eq!(answers, "HELLO\nbye\n");
//! # Ok(())
//! # }
//! ```
//!
//! [`net::TcpListener`], [`net::UdpListener`] and `net::UnixListener` take the place of `net::memory` in a server;
//! `examples/` in the repository has whole programs.
//!
//! # Two stacks in one
//!
//! There are two kinds of request, and [`SessionLayer`] is the one place where the first becomes the second.
//!
//! | | outside of `SessionLayer` | inside of it |
//! |---|---|---|
//! | a request | a [`Connection<T>`](Connection) over the transport `T` | a [`Request<In, Out>`](Request): one decoded message |
//! | a call | is the connection's whole life | is one message's handling |
//! | the response | how it ended: [`Closed`] | what to answer: whatever is [`IntoReply`] |
//! | an error | the session never opened | closes the session, as [`CloseReason::Handler`], unless a [`HandleErrorLayer`](layers::HandleErrorLayer) makes a reply of it |
//! | `concurrency_limit` | caps open connections | bounds the handlers at work |
//! | `timeout` | cuts a connection off when its time is over | is a deadline for each message |
//!
//! Beginnings and ends never travel as messages, so that a limit on messages cannot delay a close.
//!
//! # Order
//!
//! From the outermost layer to the handler:
//!
//! 1. layers for any connection: limits, access, tracing;
//! 2. layers that change the transport: TLS, WebSocket;
//! 3. [`CodecLayer`], which gives the connection its codec and its [`Session`];
//! 4. layers that need the session;
//! 5. [`SessionLayer`], which reads, decodes, calls, encodes and writes;
//! 6. layers for messages, and the handler: a function from a request to a future, through
//!    [`service_fn`](ServiceBuilder::service_fn).
//!
//! The table in [`layers`](layers#order) says of each layer what goes outside what, why, and what comes of the wrong
//! order.
//!
//! A stack that lacks one of the two, or has them the wrong way round, does not compile, and the error says what is
//! missing. It is [`serve`] that asks for a whole [`Pipeline`], so errors point there.
//!
//! # Vocabulary
//!
//! - [`Connection`]: a transport on its way through the connection stack. [`ConnectionHandle`]: what one may know of it
//!   and do to it, from anywhere, for ever: addresses, times, statistics, attributes, close, close callbacks.
//! - [`Session<Out>`](Session): the handle with a codec, to which messages of type `Out` can be
//!   [sent](Session::send) from any task.
//! - [`Request`]: a message and the session that it came in on. A handler answers with `Out`, `Option<Out>`, `Vec<Out>`
//!   or [`Reply<Out>`](Reply).
//! - [`CloseReason`]: why a session ended; the first recorded reason wins. [`Closed`] adds the statistics, the lifetime
//!   and the error behind it.
//! - [`Transport`]: what carries bytes or messages; every `AsyncRead + AsyncWrite + Unpin` is one. [`Listener`]: where
//!   connections come from.
//!
//! # Servers and clients
//!
//! [`serve`] runs a stack for the connections of one listener, [`serve_all`] one stack for several listeners, and
//! [`Serve::and`] several stacks together; each ends gracefully on a [signal](Serve::with_graceful_shutdown).
//! [`connect`] runs the same kind of stack for one connection to elsewhere, and gives the session to send with. A
//! [`Client`] keeps one such session, or a pool of them, open: see [`client`]. [`PipelineClient`] and
//! [`MultiplexClient`] make a tower service of either, from calls to answers: see [`call`].
//!
//! # Logs
//!
//! getty logs with [`tracing`](https://docs.rs/tracing): the end of each connection once, with
//! handle, reason and source, unless the application asked for it.
//! [`ConnectionHandle::set_logs_end`] lists the levels. With [`TraceLayer`](layers::TraceLayer) the
//! line is inside a span of the connection, and includes the statistics.
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | [`net`] | listeners and connectors: TCP, UDP, Unix sockets, in-memory |
//! | [`tls`], [`ws`] | layers that change a byte stream's transport, for servers and around connectors |
//! | [`codec`] | lines, length-delimited frames, raw bytes, text |
//! | [`layers`] | the layers for connections and for messages; groups, requests, close callbacks |
//! | [`session`] | the session loop and its settings |
//! | [`client`], [`call`] | clients that reconnect, and clients that call |
//! | [`transport`] | what authors of transports implement |
//!
//! # Sending and asking
//!
//! What a handler returns is its reply. Everything else is sent by a [`Session`], which a handler has from its request, an
//! open hook from its connection, a client from [`connect`] or [`Client::session`], and anybody from a
//! [`Registry`](layers::Registry), a [`Group`] or [`Topics`]. The [table](Session) there says which of its methods is for
//! what; each tells what became of the message.
//!
//! [`Session::request`] sends a message and awaits its answer, from either side, where the stack has a
//! [`CorrelateLayer`](layers::CorrelateLayer). [`call`] makes a [`tower::Service`] of it.
//!
//! # Errors and logs
//!
//! An error's `Display` says its own part, and what is behind it is its [`source`](std::error::Error::source): of
//! [`OpenError`], "connecting failed", the source says to where, and its source why. Who prints errors prints the chain, as
//! `{:#}` of the crate anyhow does.
//!
//! What happens is told by [tracing](https://docs.rs/tracing): what an operator has to see as a warning or an error, such
//! as accepting that fails or a client that gives up, what is the network's everyday, such as a dial that failed, at the
//! level `debug`. For connections and messages of one's own there are [`TraceLayer`](layers::TraceLayer) and
//! [`MessageTraceLayer`](layers::MessageTraceLayer).
//!
//! # Scope of what a layer counts
//!
//! Under [`SessionLayer::new`] every session has a clone of the message stack. What clones share, such as the semaphore
//! of tower's `concurrency_limit`, is shared by all sessions; for a limit of each session's own there is
//! [`SessionLayer::per_session`]. A session that waits for its next message holds no permit of a
//! shared limit: what its clone reserved and did not use is given back. In stacks that
//! `per_session` makes, a [`ClonePerCallLayer`](layers::ClonePerCallLayer) around a shared limit
//! does that.
//!
//! # Speed
//!
//! A message takes no allocation, lock, timer or task of its own, and the answers to what was read together leave in one
//! write. What a program chooses beyond that, the most effective first:
//!
//! - **Layers.** Those for connections cost next to nothing a message. Those for messages are called for each: tower's
//!   `timeout`, `load_shed` and `concurrency_limit` together double the CPU of a small one. So close idle and slow
//!   peers by layers for connections, and put on messages what a message needs.
//! - **The handler.** One that is ready at once costs least. [`SessionLayer::in_flight`] allocates for each message, and
//!   [`SpawnLayer`](layers::SpawnLayer) makes a task of each: for handlers that wait, or compute for long.
//! - **The codec.** [`codec::Frames`] for many small frames over a stream, [`codec::Length`] for others: the
//!   [module](codec#length-or-frames) tells them apart, and how a type of one's own is decoded without an allocation.
//! - **Sending.** [`Session::feed`] many and flush once, and a [`Group`] encodes once for all; `send` waits until its message
//!   has left.
//! - **UDP.** One [`UdpEndpoint`](net::UdpEndpoint) where peers have no state, else a session a peer by
//!   [`UdpListener`](net::UdpListener).
//! - **A runtime a core**, as in the example `per_core`: for few connections, or many of like weight with short
//!   handlers, some tenth of the CPU; for all else it is no gain.
//!
//! `benches/README.md` in the repository has what each of them costs, beside loops that one would write by hand and beside
//! other crates, and how to measure it again.
//!
//! # Features
//!
//! None is on by default: TCP, UDP, Unix sockets, in-memory connections and clients are always there.
//!
//! - `metrics`: `MetricsLayer` and `MessageMetricsLayer` of [`layers`], over the `metrics` crate.
//! - `tls`: [`tls`], over rustls.
//! - `ws`: [`ws`], over tungstenite: servers, clients, and connections that an HTTP server has upgraded.
//! - `full`: all of them, now and later.
//!
//! The vocabulary and the layers live in `getty-layers`, re-exported as [`layers`], so that an author of layers depends
//! on no sockets. tokio stays the application's own dependency.

pub mod call;
pub mod client;
pub mod codec;
mod connect;
pub mod net;
mod pipeline;
mod serve;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;
#[cfg(feature = "ws")]
pub mod ws;

#[doc(inline)]
pub use getty_core::{
    Address, CallbackAdded, Caller, CloseReason, Closed, Connection, ConnectionHandle,
    DrainDeadlineExceeded, Endpoints, Feeding, Framed, FramedParts, HasSession, IntoReply,
    MemoryBudget, Offered, Panic, Replies, Reply, Request, RequestError, SendError, Sending, Sent,
    Session, SharedError, SlowConsumer, Stats, TransportKind, WeakHandle, WeakSession, Writable,
    budget, driver,
};
#[doc(inline)]
pub use getty_layers as layers;
pub use getty_layers::{CodecLayer, Group, Topics};
/// tower itself, with what the layers and examples here need of it.
pub use tower;
pub use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};

pub use self::{
    call::{MultiplexClient, PipelineClient},
    client::Client,
    connect::{Link, LinkLayer, OpenError, SessionTask, connect},
    net::Listener,
    pipeline::{BoxPipeline, Pipeline},
    serve::{
        Drained, Listeners, Serve, ServeError, ServeFuture, serve, serve_all, shutdown_signal,
    },
    session::SessionLayer,
    transport::{BoxTransport, Transport},
};

/// The README's program is compiled with the documentation's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// The page on layers of other crates is compiled with the documentation's examples.
#[cfg(doctest)]
#[doc = include_str!("../docs/foreign-layers.md")]
#[derive(Debug)]
pub struct ForeignLayers;
