//! Network sessions as tower services.
//!
//! Write the message handler once, wrap it in layers and serve it over TCP, TLS, Unix sockets,
//! UDP and WebSocket. The same stack also works in a client that reconnects.
//!
//! - Every custom protocol needs framing, timeouts, backpressure, state for each connection and
//!   an orderly shutdown. One layer contains this session loop: [`SessionLayer`].
//! - tower's middleware works on connections and on messages.
//! - Any task may send to a session. A send waits for room and reports a typed result.
//! - Each session ends with one typed reason. Close callbacks run exactly once.
//! - A client can be called as a [`tower::Service`] from request to response.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
//! use getty::{layers::TraceLayer, net::TcpListener};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     tracing_subscriber::fmt::init();
//!     let app = ServiceBuilder::new()
//!         // called once per connection
//!         .layer(TraceLayer::new())
//!         .concurrency_limit(10_000)
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         // called once per message
//!         .timeout(Duration::from_secs(1))
//!         .service(handle(async |line: String| line.to_ascii_uppercase()));
//!
//!     let listener = TcpListener::bind("127.0.0.1:7000").await?;
//!     println!("listening on {}", listener.local_addr()?);
//!     println!("connect with `nc 127.0.0.1 7000` and type a line; Ctrl-c stops the server");
//!     getty::serve(listener, app).await?;
//!     Ok(())
//! }
//! ```
//!
//! This is the example `quickstart`. Connect with `nc 127.0.0.1 7000`. The program must depend
//! on tokio with its features `macros` and `rt-multi-thread`, and on `tracing-subscriber`.
//!
//! # Two stacks in one
//!
//! [`SessionLayer`] divides a stack of tower services into two. Outside it a request is a
//! connection. Inside it a request is one decoded message.
//!
//! ```text
//!                      Listener or connector
//!                                |
//!                                |  Connection<T>                      Closed
//!                                v                                       ^
//!   +---------------------------------------------------------------------------+
//!   |  CONNECTION STACK: called once per connection; the call is its whole life |
//!   |                                                                           |
//!   |    TraceLayer, AccessLayer, concurrency_limit    any connection           |
//!   |    TlsLayer, WsLayer                             replace the transport    |
//!   |    CodecLayer                                    adds codec and Session   |
//!   |    OnOpenLayer, HeartbeatLayer, RegistryLayer    use the Session          |
//!   +---------------------------------------------------------------------------+
//!   |  SessionLayer: the session loop                                           |
//!   |                                                                           |
//!   |    read --> decode --> call --+             +--> encode --> write         |
//!   |                               |             |       ^                     |
//!   +-------------------------------|-------------|-------|---------------------+
//!                                   v             |       +--- Session::send,
//!                      Request<In, Out>      Reply<Out>        from any task
//!                                   |             ^
//!   +-------------------------------v-------------|-----------------------------+
//!   |  MESSAGE STACK: called once per message                                   |
//!   |                                                                           |
//!   |    HandleErrorLayer, load_shed, timeout          any message              |
//!   |    the handler                                   your code                |
//!   +---------------------------------------------------------------------------+
//! ```
//!
//! | | outside `SessionLayer` | inside `SessionLayer` |
//! |---|---|---|
//! | a request is | a [`Connection<T>`] over the transport `T` | a [`Request<In, Out>`]: one decoded message |
//! | a call is | the connection's whole life | the handling of one message |
//! | the response is | [`Closed`]: how the connection ended | the reply: anything that implements [`IntoReply`] |
//! | an error means | that the session never opened | a close as [`CloseReason::Handler`], unless a [`HandleErrorLayer`] turns it into a reply |
//! | `concurrency_limit` | caps open connections | bounds the handlers in flight |
//! | `timeout` | cuts a connection off at its deadline | is a deadline for each message |
//!
//! Opening and closing do not call the message stack. So a limit on messages cannot delay a
//! close.
//!
//! The order of a stack, from the outermost layer to the handler:
//!
//! 1. layers for any connection: timeouts, limits, the PROXY protocol, tracing, access;
//! 2. layers that replace the transport: TLS, a dialogue before the session, WebSocket or
//!    compression;
//! 3. [`CodecLayer`], which adds the codec and the [`Session`];
//! 4. layers that use the session;
//! 5. [`SessionLayer`], which reads, decodes, calls, encodes and writes;
//! 6. layers for messages, and the handler.
//!
//! A stack without [`CodecLayer`] or [`SessionLayer`] does not compile, nor does a stack with
//! the two exchanged. The compiler's error points at [`serve`], which requires a [`Pipeline`].
//! Without [`CodecLayer`] it names the missing layer. If it is about a
//! `Service<Connection<..>>` that a layer for messages, a [`Router`] or a handler does not
//! implement, this service is not inside [`SessionLayer`]. The table in
//! [`layers`](layers#order) gives the position of each layer, with the reason and the effect of
//! a wrong order.
//!
//! # Handlers
//!
//! A handler is a function, `async` or not. Its first argument is the message, or is decoded
//! from it. The others are made from the session and from the state. The returned value is the
//! reply. This server has a handler for each type of message:
//!
//! ```
//! # #[cfg(feature = "json")]
//! # mod room {
//! use getty::handler::{Json, Tagged};
//! use getty::{CodecLayer, Group, Router, Session, State, codec, codec::Lines};
//! use getty::{Pipeline, ServiceBuilder, SessionLayer};
//!
//! fn join(session: Session<String>, State(room): State<Group<String>>) -> String {
//!     format!("member: {}", room.join(&session))
//! }
//!
//! async fn say(Json(text): Json<String>, State(room): State<Group<String>>) -> String {
//!     format!("sent to {}", room.broadcast(text).delivered)
//! }
//!
//! fn app() -> impl Pipeline<tokio::net::TcpStream> + Clone {
//!     let router = Router::<Tagged, String, _>::with_state(Group::<String>::new())
//!         .route("join", join)
//!         .route("say", say);
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Json::new(Lines::new())))
//!         .layer(SessionLayer::new())
//!         .service(router)
//! }
//! # }
//! ```
//!
//! A `Tagged` message is a line such as `{"type":"say","data":"hello"}`. Its type selects the
//! handler, and `Json` decodes its data. Both need the feature `json`.
//!
//! | to call | use |
//! |---|---|
//! | one function with each message | [`handle`], or [`handle_with`] and a state |
//! | a function for each variant of an enum | [`dispatch`] |
//! | a function for each opcode, command or tag | [`Router`] |
//! | a method of an object that each session has | [`handle_mut`](handler::handle_mut) |
//! | a [`Service`] over [`Request`] | the service, or [`service_fn`] |
//!
//! The module [`handler`] lists all arguments and results. The module
//! [`codec::format`](mod@codec::format) lists the formats of typed messages. The [`cookbook`]
//! has complete programs for common jobs.
//!
//! The session loop calls one handler at a time by default. [`SessionLayer::with_in_flight`]
//! permits several. Their replies are sent in the order of the requests. With
//! [`unordered`](SessionLayer::unordered) each reply is sent when its handler finishes.
//! [`SpawnLayer`](layers::SpawnLayer) runs each handler on a separate task.
//!
//! A handler may block only for a short time, because it shares its thread with other sessions.
//! It may keep the [`Session`] and send later.
//!
//! # Replies and errors
//!
//! A handler may return a message, an `Option`, a `Vec`, a [`Reply`], or a `Result` of one of
//! these. A handler that does not reply returns [`NoReply`]. An error that implements
//! [`IntoReply`] is sent as the reply. A boxed error closes the session as
//! [`CloseReason::Handler`]. A [`HandleErrorLayer`](layers::HandleErrorLayer) can turn it into
//! a reply instead:
//!
//! ```
//! use getty::{BoxError, CodecLayer, Pipeline, Reply, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, handle, layers::HandleErrorLayer};
//!
//! fn command(line: String) -> Result<Reply<String>, BoxError> {
//!     match line.as_str() {
//!         "QUIT" => Ok(Reply::one("bye".to_owned()).and_close()),
//!         "PING" => Ok(Reply::one("PONG".to_owned())),
//!         "LIST" => Ok(Reply::many(vec!["one".to_owned(), "two".to_owned()])),
//!         "QUIET" => Ok(Reply::none()),
//!         other => Err(format!("unknown command {other}").into()),
//!     }
//! }
//!
//! fn app() -> impl Pipeline<tokio::net::TcpStream> {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .layer(HandleErrorLayer::new(|error: BoxError| format!("ERR {error}")))
//!         .service(handle(command))
//! }
//! # let _ = app();
//! ```
//!
//! A frame with a malformed payload closes the session as [`CloseReason::Decode`]. A codec that
//! is [`tolerant`](codec::format::Typed::tolerant) and a
//! [`HandleMalformedLayer`](layers::HandleMalformedLayer) send a reply instead.
//!
//! The `Display` of an error describes that error alone. The next cause is its
//! [`source`](std::error::Error::source). For example, [`OpenError`] prints "connecting
//! failed". Its source names the address, and the next source gives the reason. Programs should
//! print the whole chain. The format `{:#}` of the crate anyhow does that.
//!
//! # Sharing state
//!
//! State of the application is passed to [`handle_with`], [`dispatch`] or
//! [`Router::with_state`]. It should be cheap to clone, such as an [`Arc`](std::sync::Arc).
//! State of one session is an [attribute](ConnectionHandle::insert) of its handle. Layers,
//! handlers and close callbacks can read it:
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
//!
//! use getty::{Attribute, CodecLayer, Pipeline, ServiceBuilder, Session, SessionLayer, State};
//! use getty::{codec::Lines, handle_with};
//!
//! #[derive(Clone, Default)]
//! struct Messages(Arc<AtomicU64>);
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! fn greet(
//!     line: String,
//!     session: Session<String>,
//!     user: Option<Attribute<User>>,
//!     State(Messages(messages)): State<Messages>,
//! ) -> String {
//!     if let Some(name) = line.strip_prefix("LOGIN ") {
//!         session.insert(User(name.to_owned()));
//!     }
//!     let name = user.map_or("guest".to_owned(), |Attribute(User(name))| name);
//!     format!("{name}, message {}", messages.fetch_add(1, Relaxed) + 1)
//! }
//!
//! fn app() -> impl Pipeline<tokio::net::TcpStream> {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .service(handle_with(Messages::default(), greet))
//! }
//! # let _ = app();
//! ```
//!
//! Each session calls a clone of the message stack. So all sessions share the state that clones
//! share, such as the semaphore of tower's `concurrency_limit`. [`SessionLayer::per_session`]
//! builds a separate stack for each session. Layers that keep state need it, such as tower's
//! `rate_limit`.
//!
//! A session that waits for its next message holds no permit of a shared limit: the session
//! loop replaces its clone, and the replaced clone returns the permits that it reserved. A
//! stack made by `per_session` is not replaced. It must wrap a shared limit in a
//! [`ClonePerCallLayer`](layers::ClonePerCallLayer).
//!
//! # Vocabulary
//!
//! - [`Connection`]: a transport that passes through the connection stack.
//! - [`ConnectionHandle`]: access to a connection from any task. It has addresses, times,
//!   statistics, attributes, close methods and close callbacks. It can be read after the close.
//! - [`Session<Out>`](Session): a handle that can also [send](Session::send) messages of type
//!   `Out`.
//! - [`Request`]: a message and the session that received it.
//! - [`CloseReason`]: the reason for the end of a session. The first recorded reason is kept.
//!   [`Closed`] adds the statistics, the lifetime and the error.
//! - [`Transport`]: an I/O object that carries bytes or messages. It is implemented for every
//!   type that is `AsyncRead + AsyncWrite + Unpin`.
//! - [`Listener`]: a source of connections.
//!
//! # A session's life
//!
//! A session has up to eight phases:
//!
//! ```text
//!             accept or connect
//!                     |
//!                     v
//!               +-----------+   refused, failed or timed out
//!               |  opening  |-------------------------------------------+
//!               +-----------+                                           |
//!                  |     |  the open hooks are done                     |
//!                  |     v                                              |
//!            close |  +-----------+   reset, failed write  +-----------+|
//!                  |  |  running  |----------------------->| receiving ||
//!                  |  +-----------+                        +-----------+|
//!                  |     |  close, timeout, error, shutdown,    |       |
//!                  |     |  or a half-closed session has        |       |
//!                  v     v  answered all messages               |       |
//!               +-----------+                                   |       |
//!               | draining  |                                   |       |
//!               +-----------+                                   |       |
//!                  |     |  drain deadline, panic               |       |
//!                  |     v                                      |       |
//!                  |  +-----------+                             |       |
//!                  |  | flushing  |                             |       |
//!                  |  +-----------+                             |       |
//!                  v     v  all is flushed                      |       |
//!               +-----------+                                   |       |
//!               |  closing  |                                   |       |
//!               +-----------+                                   |       |
//!                     |  the transport is closed                |       |
//!                     v                                         |       |
//!               +-----------+                                   |       |
//!               | lingering |                                   |       |
//!               +-----------+                                   |       |
//!                     |  the peer ends its direction,           |       |
//!                     v  or the deadline                        |       |
//!               +-----------+    messages are handled, deadline |       |
//!               |  closed   |<----------------------------------+-------+
//!               +-----------+
//! ```
//!
//! | phase | reads | handlers | writes |
//! |---|---|---|---|
//! | opening | no | not called | messages of open hooks |
//! | running | yes | called | replies and pushes |
//! | receiving | what has arrived | called | nothing |
//! | draining | discards while output waits | those in flight may finish | accepted messages |
//! | flushing | discards while output waits | none | encoded bytes |
//! | closing | no | none | close frame, `close_notify`, end of the stream |
//! | lingering | discards input | none | nothing |
//! | closed | no | none | no; close callbacks run, then `closed()` resolves |
//!
//! - A handler can upgrade a running session with [`Reply::and_upgrade`], such as to TLS. The
//!   session then neither reads nor calls handlers until the handshake is complete. It continues
//!   as running over the new transport ([`upgrade`](upgrade#upgrade-of-an-open-session)).
//! - A running session whose peer has ended its direction is half-closed. It handles the
//!   messages that it has received, and sends replies and pushes.
//! - The drain deadline bounds every phase from the close on. The default is 5 s
//!   ([`with_drain_deadline`](SessionLayer::with_drain_deadline)).
//! - After a reset or a failed write the session cannot write. It will still handle the
//!   messages that it has received, until the drain deadline.
//! - [`Session::finish`] ends this side's direction. The session still reads.
//! - Close callbacks run once the transport is dropped. Then
//!   [`closed()`](ConnectionHandle::closed) resolves with [`Closed`].
//!
//! # Sending and requests
//!
//! The value that a handler returns is the reply. Every other message is sent with a
//! [`Session`]. A handler gets it from its request and an open hook from its connection. A
//! client gets it from [`connect`] or [`Client::session`]. Other code can use a
//! [`Registry`](layers::Registry), a [`Group`] or [`Topics`]. Each method reports the outcome
//! of its message. The [table of methods](Session) lists when each send resolves and how it
//! behaves if the queue is full.
//!
//! [`Session::request`] sends a message and awaits the response. Either side may send requests.
//! Its stack must contain a [`CorrelateLayer`](layers::CorrelateLayer).
//!
//! # Middleware
//!
//! - **tower's layers** work on both sides of [`SessionLayer`]. The repository's
//!   `docs/foreign-layers.md` lists the exceptions.
//! - **getty's layers** are in [`layers`]: timeouts, heartbeats, limits, hooks and metrics.
//! - **Functions** become layers with [`connection_fn`](middleware::connection_fn) and
//!   [`message_fn`](middleware::message_fn).
//! - **Custom layers** implement [`Layer`] and [`Service`] for [`Connection`] or for
//!   [`Request`]. The example `custom_layer` has one of each. Closures suffice for small ones:
//!
//! ```
//! use getty::{BoxError, CodecLayer, Connection, Pipeline, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, layers::PeerLimitLayer};
//! use tokio::net::TcpStream;
//!
//! fn app() -> impl Pipeline<TcpStream> {
//!     ServiceBuilder::new()
//!         .map_request(|connection: Connection<TcpStream>| {
//!             connection.handle().set_name("front door");
//!             connection
//!         })
//!         .layer(PeerLimitLayer::new(20)) // connections of one address
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .concurrency_limit(64) // handlers in flight
//!         .map_request(|request: Request<String>| {
//!             tracing::debug!(connection = request.session().id(), "message");
//!             request
//!         })
//!         .service_fn(|request: Request<String>| async move {
//!             Ok::<_, BoxError>(request.into_message())
//!         })
//! }
//! # let _ = app();
//! ```
//!
//! # Transports
//!
//! - [`net::TcpListener`] and [`net::TcpConnector`]: TCP. [`net::proxy`] dials through SOCKS 5
//!   and HTTP proxies.
//! - `net::UnixListener` and `net::UnixConnector`: Unix stream sockets.
//! - [`net::UdpListener`] and [`net::UdpConnector`]: UDP, one session per peer.
//! - [`net::UdpEndpoint`]: UDP, one session for all peers of a socket.
//! - [`net::memory`]: connections within the process.
//! - [`tls::TlsLayer`] and [`tls::TlsConnectLayer`]: TLS over a byte stream (feature `tls`).
//!   [`tls::TlsOrPlainLayer`] also serves plain peers on the same port.
//! - [`ws::WsLayer`] and [`ws::WsConnectLayer`]: WebSocket over a byte stream, also behind an
//!   HTTP server (feature `ws`).
//! - [`proxy::ProxyProtocolLayer`] and [`proxy::ProxyProtocolConnectLayer`]: the PROXY protocol,
//!   which carries the addresses of clients through load balancers.
//! - [`upgrade::OpeningLayer`]: a dialogue before the session, in either role.
//!   [`upgrade::UpgradeLayer`] and `upgrade::StartTlsLayer` upgrade an open session.
//! - [`compress::CompressionLayer`] and [`compress::CompressionConnectLayer`]: compressed byte
//!   streams (feature `compression`). [`codec::Deflated`] compresses each frame alone, and
//!   [`ws::WsLayer::with_deflate`] each WebSocket message.
//! - [`transport`]: the traits for custom transports.
//!
//! [`ConnectionRouter`] passes each connection to the stack of its route, such as a stack for
//! each server name.
//!
//! [`serve`] runs a stack for the connections of one listener. [`serve_all`] runs one stack for
//! several listeners, which may have different transports. [`Serve::and`] joins several stacks:
//!
//! ```no_run
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
//! use getty::net::{TcpListener, UdpListener};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), BoxError> {
//! let app = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(format!("{}: {}", request.session().transport(), request.message()))
//!     });
//! let tcp = TcpListener::bind("127.0.0.1:7000").await?;
//! let udp = UdpListener::bind("127.0.0.1:7000").await?;
//! getty::serve_all((tcp, udp), app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Clients
//!
//! [`connect`] runs the same kind of stack for one outgoing connection and returns its
//! [`Session`]. A [`Client`] keeps one session or a pool of sessions open and
//! [reconnects](client). [`PipelineClient`] and [`MultiplexClient`] turn either into a
//! [`tower::Service`] from request to response: see [`call`].
//!
//! ```no_run
//! use getty::{BoxError, Client, CodecLayer, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, net::TcpConnector};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), BoxError> {
//! let client = Client::new(TcpConnector::new(), "example.com:7000", |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(link) // hands out the typed session
//!         .layer(SessionLayer::new())
//!         .service_fn(|request: Request<String>| async move {
//!             println!("{}", request.message());
//!             Ok::<_, BoxError>(None)
//!         })
//! });
//! client.send("hello".to_owned()).await?; // waits until a session is open
//! # Ok(())
//! # }
//! ```
//!
//! # Groups
//!
//! A [`Group`] sends one message to many sessions and encodes it once. [`Topics`] is a set of
//! groups by key. A session leaves its groups when it closes. A [`SlowConsumer`] policy applies
//! to each member that reads too slowly. By default it misses messages without a notice to it.
//! The returned [`Report`](layers::group::Report) counts them. Use [`SlowConsumer::Close`], or
//! [`with_notice`](layers::group::GroupBuilder::with_notice), which sends the number of missed
//! messages. A broadcast that a member's codec refuses, such as one that is too long, is
//! dropped for this member and counted.
//!
//! ```
//! use getty::{Group, NoReply, Session, State};
//!
//! type Lobby = State<Group<String>>;
//!
//! fn say(line: String, session: Session<String>, State(lobby): Lobby) -> NoReply {
//!     lobby.join(&session);
//!     lobby.broadcast_except(&session, line);
//!     NoReply
//! }
//! # let _ = say;
//! ```
//!
//! # Testing
//!
//! The crate `getty-test` has sessions without sockets, transports with faults, and checks for
//! custom layers.
//!
//! [`net::memory`] connects a client and a server without a socket. It works with tokio's
//! paused clock, so a test of a timeout need not wait.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Reply, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, net};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let app = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(match request.message().as_str() {
//!             "QUIT" => Reply::one("bye".to_owned()).and_close(),
//!             line => Reply::one(line.to_ascii_uppercase()),
//!         })
//!     });
//!
//! let (listener, connector) = net::memory(1024);
//! tokio::spawn(getty::serve(listener, app).into_future());
//!
//! let mut client = connector.connect().await?.into_parts().0;
//! client.write_all(b"hello\nQUIT\n").await?;
//! let mut received = String::new();
//! client.read_to_string(&mut received).await?;
//! assert_eq!(received, "HELLO\nbye\n");
//! # Ok(())
//! # }
//! ```
//!
//! # Operations
//!
//! - **Shutdown**: [`Serve::with_graceful_shutdown`] stops accepting and drains the sessions.
//!   It returns [`Drained`]: how many sessions finished and how many were aborted.
//! - **Logs**: getty logs with [`tracing`](https://docs.rs/tracing). The end of each connection
//!   is logged once with its handle, reason and source, unless the application requested the
//!   close. Failures of the application and bad input have the level `WARN`. Other ends have
//!   the level `DEBUG`. [`TraceLayer`](layers::TraceLayer) puts the line inside a span of the
//!   connection and adds the statistics. [`MessageTraceLayer`](layers::MessageTraceLayer) adds
//!   a span for each message. Conditions that an operator must see are warnings or errors, such
//!   as a failing `accept`, a client that gives up, or one whose third attempt in a row has
//!   failed. Normal network failures have the level `DEBUG`.
//! - **Metrics**: `MetricsLayer` and `MessageMetricsLayer` (feature `metrics`) publish
//!   counters, gauges and latencies. The application must install a recorder of the crate
//!   `metrics`.
//! - **Live sessions**: a [`Registry`](layers::Registry) lists, counts, finds and closes them.
//! - **Limits**: each buffer and queue has a bound. A [`MemoryBudget`] bounds the memory that
//!   all sessions of a process may hold for sending.
//! - **Security**: the repository's `SECURITY.md` lists each defence with its default.
//!
//! # Speed
//!
//! A session costs about as much as a hand-written tokio loop. The session loop uses no
//! allocation, lock, timer or task per message. Replies to messages that were read together
//! share one write. A program has these choices, the most effective first:
//!
//! - **Layers.** A connection layer costs almost nothing per message. A message layer is called
//!   for each message: tower's `timeout`, `load_shed` and `concurrency_limit` together double
//!   the CPU of a small message. Close idle and slow peers with connection layers where
//!   possible.
//! - **The handler.** A handler that is ready at once costs least.
//!   [`SessionLayer::with_in_flight`] allocates for each message, and
//!   [`SpawnLayer`](layers::SpawnLayer) spawns a task for each. Use them for handlers that wait
//!   or compute for long.
//! - **The codec.** [`codec::Frames`] is for many small frames over a stream. The
//!   [module](codec) compares it with the other length-delimited codec, and shows how to decode
//!   a custom type without an allocation.
//! - **Sending.** Use [`Session::feed`] for several messages and flush once. A [`Group`]
//!   encodes once for all members. `send` waits until its message is flushed.
//! - **UDP.** Use one [`UdpEndpoint`](net::UdpEndpoint) if peers have no state. Otherwise use
//!   [`UdpListener`](net::UdpListener), which has a session per peer.
//! - **One runtime per core**, as in the example `per_core`, can save about a tenth of the CPU.
//!   It helps with few connections. It also helps with many connections of similar load and
//!   short handlers. Otherwise it gains nothing.
//!
//! The repository's `benches/README.md` has the cost of each choice and a comparison with
//! hand-written loops and other crates. It also has the commands to repeat the measurements.
//!
//! # Coming from other libraries
//!
//! | Netty | getty |
//! |---|---|
//! | `ChannelPipeline` | a stack of tower layers |
//! | `Channel` | [`Session`] and its [`ConnectionHandle`] |
//! | `ByteToMessageDecoder` | [`codec::Decoder`] |
//! | `MessageToByteEncoder` | [`codec::Encoder`] |
//! | `SimpleChannelInboundHandler` | the handler |
//! | `writeAndFlush` | [`Session::send`] |
//! | `write` | [`Session::feed`] |
//! | `channelActive` | [`OnOpenLayer`](layers::OnOpenLayer) |
//! | `channelInactive` | [`CloseCallbackLayer`](layers::CloseCallbackLayer) |
//! | `exceptionCaught` | [`HandleErrorLayer`](layers::HandleErrorLayer) and [`Closed`] |
//! | `IdleStateHandler` | [`IdleTimeoutLayer`] and [`HeartbeatLayer`] |
//! | `SslHandler` | [`TlsLayer`](tls::TlsLayer); after STARTTLS [`StartTlsLayer`](upgrade::StartTlsLayer) |
//! | `SniHandler` and `OptionalSslHandler` | [`TlsLayer::choose`](tls::TlsLayer::choose) and [`TlsOrPlainLayer`](tls::TlsOrPlainLayer) |
//! | `HAProxyMessageDecoder` | [`ProxyProtocolLayer`](proxy::ProxyProtocolLayer) |
//! | `Socks5ProxyHandler` and `HttpProxyHandler` | [`Socks5ConnectLayer`](net::proxy::Socks5ConnectLayer) and [`HttpConnectLayer`](net::proxy::HttpConnectLayer) |
//! | `JdkZlibEncoder` and `JdkZlibDecoder` | [`CompressionLayer`](compress::CompressionLayer) |
//! | `WebSocketServerCompressionHandler` | [`WsLayer::with_deflate`](ws::WsLayer::with_deflate) |
//! | `ChannelGroup` | [`Group`] |
//! | `ServerBootstrap` | [`serve`] |
//! | `Bootstrap` | [`connect`] or [`Client`] |
//! | `EmbeddedChannel` | `TestSession` of the crate `getty-test` |
//!
//! | the Go library getty | getty |
//! |---|---|
//! | `OnOpen` | [`OnOpenLayer`](layers::OnOpenLayer) |
//! | `OnMessage` | the handler |
//! | `OnCron` | [`IntervalLayer`](layers::IntervalLayer) |
//! | `OnClose` | [`CloseCallbackLayer`](layers::CloseCallbackLayer) |
//! | heartbeats in `OnCron` | [`HeartbeatLayer`](layers::HeartbeatLayer) |
//! | `Reader` and `Writer` | [`codec::Decoder`] and [`codec::Encoder`] |
//! | `WritePkg` | [`Session::send_timeout`] |
//! | `WriteBytes` | [`Session::send_raw`] |
//! | `WriteBytesArray` | [`Session::send_raw_vectored`] |
//! | `AddCloseCallback` | [`ConnectionHandle::add_close_callback`] |
//! | `SetAttribute` | [`ConnectionHandle::insert`], or by key [`ConnectionHandle::insert_at`] |
//! | `UpdateActive` | [`ConnectionHandle::touch`] |
//! | `GetActive` | [`ConnectionHandle::last_active`] |
//! | `SetWaitTime` | [`SessionLayer::with_drain_deadline`] |
//! | `SetCompressType` | [`CompressionLayer::deflate`](compress::CompressionLayer::deflate) |
//! | a client's connection number | [`ClientBuilder::with_sessions`] |
//! | the task pool | [`SpawnLayer`](layers::SpawnLayer) |
//! | `SetCompressType` | [`CompressionLayer`](compress::CompressionLayer) |
//!
//! | axum | getty |
//! |---|---|
//! | `axum::serve` | [`serve`] |
//! | a handler | a handler: [`handle`] |
//! | `FromRequest` and `FromRequestParts` | [`FromRequest`] and [`FromSession`] |
//! | `IntoResponse` | [`IntoReply`] and [`HandlerOutput`](handler::HandlerOutput) |
//! | `Router` | [`Router`], by the key of a message, or [`dispatch`] over an enum |
//! | `State` and `FromRef` | [`State`] and [`PartOf`](handler::PartOf) |
//! | `Json` | `handler::Json` in an argument; `codec::Json` in the codec |
//! | request extensions | [attributes] of the session: [`Attribute`] |
//! | `middleware::from_fn` | [`connection_fn`] and [`message_fn`] |
//! | `ConnectInfo` | [`PeerAddr`](handler::PeerAddr) |
//! | `WebSocketUpgrade` | [`ws::upgrades`], also behind an axum server |
//!
//! | a loop over `tokio_util::codec::Framed` | getty |
//! |---|---|
//! | `codec::Framed::new(stream, codec)` | [`CodecLayer::new`] with the same codec |
//! | `framed.next()` | the handler |
//! | `framed.send(reply)` | the value that the handler returns |
//! | `select!` with an `mpsc::Receiver` | [`Session`], a handle that any task may send with |
//! | `timeout(time, framed.next())` | [`IdleTimeoutLayer::new`] |
//! | a map from ids to senders | [`Registry`](layers::Registry) or [`Topics`] |
//!
//! The repository's `docs/` has a page for users of each: `from-netty.md`, `from-go-getty.md`,
//! `from-axum.md` and `from-framed.md`. Each has one program in both and the differences.
//!
//! # Required dependencies
//!
//! An application needs tokio with `macros` and `rt-multi-thread`, and usually a subscriber for
//! `tracing`. getty re-exports [`tower`] with its features `limit`, `load`, `load-shed`,
//! `timeout` and `util`. `buffer`, `retry`, `balance`, `steer` and `filter` need a
//! dependency on tower 0.5 with the feature of that name. No Cargo feature of getty is on
//! by default:
//!
//! - `compression`: the module [`compress`] with deflate, zlib and snappy, [`codec::Deflated`],
//!   and permessage-deflate for WebSocket, with the crates `zlib-rs` and `snap`.
//! - `json`, `messagepack`, `postcard` and `prost`: typed messages in these formats, as
//!   [codecs](codec::format) and as arguments of [handlers](handler), with the crates
//!   `serde_json`, `rmp-serde`, `postcard` and `prost`.
//! - `metrics`: `MetricsLayer` and `MessageMetricsLayer` of [`layers`], with the crate
//!   `metrics`.
//! - `serde`: `Serialize` for [`Stats`], [`Closed`] and the snapshots of a
//!   [`Registry`](layers::Registry).
//! - `tls`: the module [`tls`], with rustls.
//! - `ws`: the module [`ws`], with tungstenite, for servers, clients and connections upgraded
//!   by an HTTP server.
//! - `zstd`: zstd for the module [`compress`], with the C library.
//! - `full`: all features, present and future.
//!
//! An author of layers can depend on `getty-core` and `getty-layers` alone. They contain no
//! sockets. getty re-exports the vocabulary at its root and the layers as [`layers`].
//!
//! # Minimum Rust version
//!
//! Rust 1.88. An increase is not a breaking change.
//!
//! # Platforms
//!
//! CI runs on Linux. Unix sockets and SIGTERM exist on Unix only. A few socket options take
//! effect on some platforms only; the documentation of each option lists them.
//!
//! # Examples
//!
//! The directory `examples/` of the repository contains complete programs. Start with
//! `json_chat`, `game_server` and `redis`. They are short and show handlers, formats and
//! routes. `chat` is a small application for terminals and browsers. `game` serves players over
//! UDP and WebSocket, and `rpc` balances calls over three servers. `proxied` is a server
//! behind a load balancer, `front` has two names on one port, and `smtp` and `postgres`
//! start TLS on request.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`net`] | listeners and connectors: TCP, UDP, Unix sockets, in memory; proxies of clients |
//! | [`tls`] and [`ws`] | layers that replace the transport, for servers and for connectors |
//! | [`proxy`] | the PROXY protocol, for servers behind load balancers and for connectors |
//! | [`upgrade`] | a dialogue before the session, TLS in an open session |
//! | [`compress`] | layers that compress byte streams |
//! | [`handler`] | functions as handlers, arguments, results, [`dispatch`], [`Router`] |
//! | [`codec`] | lines, frames with a length, packets, raw bytes, text; JSON and others |
//! | [`layers`] | layers for connections and messages, groups, requests, close callbacks |
//! | [`middleware`] | layers from functions |
//! | [`session`] | the session loop and its settings |
//! | [`client`], [`call`] | clients that reconnect, and clients that call |
//! | [`cookbook`] | programs for common jobs: login, rooms, reconnect, calls, restart |
//! | [`transport`] | traits for authors of transports |
//!
//! [`Connection<T>`]: Connection
//! [`Request<In, Out>`]: Request
//! [`HandleErrorLayer`]: layers::HandleErrorLayer
//! [`IdleTimeoutLayer`]: layers::IdleTimeoutLayer
//! [`HeartbeatLayer`]: layers::HeartbeatLayer
//! [`ClientBuilder::with_sessions`]: client::ClientBuilder::with_sessions
//! [`connection_fn`]: middleware::connection_fn
//! [`message_fn`]: middleware::message_fn
//! [`IdleTimeoutLayer::new`]: layers::IdleTimeoutLayer::new
//! [`service_fn`]: ServiceBuilder::service_fn
//! [`FromRequest`]: handler::FromRequest
//! [`FromSession`]: handler::FromSession
//! [attributes]: ConnectionHandle::insert

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

mod buffer_pool;
pub mod call;
pub mod client;
pub mod codec;
#[cfg(feature = "compression")]
pub mod compress;
mod connect;
mod connection_router;
mod crc32c;
// documentation only
#[cfg(any(doc, doctest))]
pub mod cookbook;
pub mod handler;
pub mod middleware;
pub mod net;
mod pipeline;
mod platform;
pub mod proxy;
mod serve;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;
pub mod upgrade;
#[cfg(feature = "ws")]
pub mod ws;

/// The driver half of a session, for test kits.
#[doc(hidden)]
pub use getty_core::driver;
#[doc(inline)]
pub use getty_core::{
    Address, AddressesFixed, ApplicationClose, CallbackAdded, Caller, Close, CloseReason, Closed,
    Connection, ConnectionHandle, DrainDeadlineExceeded, Endpoints, Feeding, HasSession, IntoReply,
    MemoryBudget, Offered, Panic, Rate, Replies, Reply, Request, RequestError, SendError, Sending,
    Sent, Session, SessionIo, SessionIoParts, SharedError, SlowConsumer, Stats, TransportKind,
    WeakHandle, WeakSession, Writable, budget, hooks,
};
#[doc(inline)]
pub use getty_layers as layers;
pub use getty_layers::{CodecLayer, Group, Topics};
/// The version of tower that getty uses, with the features of its layers and examples.
pub use tower;
pub use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};

pub use self::{
    call::{MultiplexClient, PipelineClient},
    client::Client,
    connect::{Connector, Link, LinkLayer, OpenError, SessionTask, connect},
    connection_router::{ConnectionRouter, RouteError, RouteFuture},
    handler::{
        Attribute, Keyed, NoReply, Rejection, Router, Scope, State, dispatch, handle, handle_with,
    },
    net::Listener,
    pipeline::{BoxPipeline, Pipeline},
    serve::{
        Drained, Listeners, Serve, ServeError, ServeFuture, serve, serve_all, shutdown_signal,
    },
    session::SessionLayer,
    transport::{BoxTransport, Transport},
};

/// Compiles the programs of the README as documentation tests. One has messages in JSON,
/// and one TLS and WebSocket.
#[cfg(all(doctest, feature = "json", feature = "tls", feature = "ws"))]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// Compiles the programs of the page on third-party layers as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/foreign-layers.md")]
#[derive(Debug)]
pub struct ForeignLayers;

/// Compiles the programs of the page on load balancers as documentation tests.
#[cfg(all(doctest, feature = "ws"))]
#[doc = include_str!("../docs/load-balancers.md")]
#[derive(Debug)]
pub struct LoadBalancers;

/// Compiles and runs the programs of the page for users of the Go library getty.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-go-getty.md")]
#[derive(Debug)]
pub struct FromGoGetty;

/// Compiles and runs the programs of the page for users of Netty.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-netty.md")]
#[derive(Debug)]
pub struct FromNetty;

/// Compiles and runs the programs of the page for users of axum.
#[cfg(all(doctest, feature = "json"))]
#[doc = include_str!("../docs/from-axum.md")]
#[derive(Debug)]
pub struct FromAxum;

/// Compiles and runs the programs of the page for users of tokio-util's `Framed`.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-framed.md")]
#[derive(Debug)]
pub struct FromFramed;
