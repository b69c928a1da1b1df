//! Test kit for getty.
//!
//! It tests codecs, handlers, layers, servers and clients without sockets. The clock is paused,
//! so a test that waits for an hour takes no time. A message that never comes fails the test
//! instead of hanging it.
//!
//! | to test | use |
//! |---|---|
//! | a stack, a handler or a codec | [`TestSession`], which is also the [`Peer`] |
//! | a handler, with messages as values | [`TestSession::values`] |
//! | behaviour over a bad network | the faults of [`Peer`]; [`Peer::randomize`] |
//! | a layer, by the rules of tower | [`assert_layer_contract`], [`LayerContract`] and [`Rule`] |
//! | how a layer calls its inner service | [`probe`](probe()) |
//! | a message layer or a handler, without a session loop | [`request`](request()) |
//! | a connection layer, without a session loop | [`connection`](connection()), [`session_connection`] |
//! | timeouts and heartbeats | [`advance`], [`assert_beats_every`], [`assert_closes_after`] |
//! | a server | [`listener`](listener()) |
//! | a client that reconnects | [`connector`](connector()) |
//! | logs and metrics | [`Log`] and `Metrics` (feature `metrics`) |
//!
//! The page `docs/testing.md` of the repository has an example of each, and a table of all
//! faults.
//!
//! A test has the attribute `#[tokio::test(start_paused = true)]`. The features `macros`, `rt`
//! and `test-util` of tokio must be enabled.
//!
//! # A handler
//!
//! ```
//! use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle_with};
//! use getty_test::{TestSession, Values};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let session = TestSession::values(|codec: Values<String, usize>| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec))
//!         .layer(SessionLayer::new())
//!         .service(handle_with((), async |text: String| text.len()))
//! });
//! session.send("hello".to_owned());
//! assert_eq!(session.recv().await, 5);
//! # }
//! ```
//!
//! # A codec
//!
//! ```
//! use getty::{CloseReason, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
//! use getty_test::TestSession;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let echo = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service(handle(async |line: String| line));
//! for seed in 0..20 {
//!     let session = TestSession::stream(echo.clone());
//!     session.randomize(seed); // splits, merges and short writes
//!     session.send("hello\nworld\n");
//!     assert_eq!(session.lines(2).await, ["hello", "world"], "seed {seed}");
//!     session.send(b"\xff\n");
//!     assert_eq!(session.closed().await.reason, CloseReason::Decode, "seed {seed}");
//! }
//! # }
//! ```
//!
//! # A layer
//!
//! ```
//! use getty::layers::ActivityLayer;
//! use getty_test::{assert_layer_contract, request};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let layer = ActivityLayer::new(|message: &&str| *message != "PING");
//! // ready, call, drop, close, panic and clone; a failure names the rule and its source
//! assert_layer_contract(&layer, || request::<_, String>("hello")).await;
//! # }
//! ```
//!
//! # A client that reconnects
//!
//! ```
//! use getty::{Client, CodecLayer, NoReply, ServiceBuilder, SessionLayer};
//! use getty::{codec::Lines, handle};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let (connector, acceptor) = getty_test::connector();
//! let client = Client::new(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service(handle(async |_: String| NoReply))
//! });
//! acceptor.accept().await.reset();
//! let server = acceptor.accept().await; // the client has connected again
//! client.send("hello".to_owned()).await.unwrap();
//! assert_eq!(server.line().await, "hello");
//! # }
//! ```

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

mod contract;
mod log;
mod messages;
#[cfg(feature = "metrics")]
mod metrics;
mod network;
mod peer;
mod probe;
mod request;
mod session;
mod stream;
mod time;
mod values;
mod wire;

#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub use self::{
    contract::{Broken, ContractService, LayerContract, Rule, assert_layer_contract},
    log::{Log, LogEvent, LogSpan},
    messages::{Messages, messages},
    network::{Acceptor, Dialer, TestConnector, TestListener, connector, listener},
    peer::Peer,
    probe::{Probe, ProbeFuture, ProbeHandle, probe},
    request::{ContractRequest, connection, request, session, session_connection},
    session::TestSession,
    stream::{Stream, stream},
    time::{advance, assert_beats_every, assert_closes_after, settle},
    values::{ValuePeer, Values},
    wire::Counts,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../docs/testing.md")]
mod pages {}
