//! A client that reconnects and subscribes again.
//!
//! A client receives the messages of its subscriptions. When the connection ends, the client
//! must open another and subscribe again before other code uses it.
//!
//! # Program
//!
//! ```
//! use std::{collections::BTreeSet, net::SocketAddr, sync::{Arc, Mutex}, time::Duration};
//!
//! use getty::{BoxError, Client, CodecLayer, NoReply, ServiceBuilder, Session, SessionLayer};
//! use getty::{State, client::Backoff, codec::Lines, handle_with};
//! use getty::{layers::IdleTimeoutLayer, net::TcpConnector};
//! use tokio::sync::mpsc;
//!
//! /// The subscriptions of the application. Clones share them.
//! #[derive(Clone, Default)]
//! struct Wanted(Arc<Mutex<BTreeSet<String>>>);
//!
//! /// Runs on each new session before the client offers it.
//! async fn subscribe(session: Session<String>, wanted: Wanted) -> Result<(), BoxError> {
//!     let topics = wanted.0.lock().unwrap().clone();
//!     for topic in topics {
//!         session.feed(format!("SUBSCRIBE {topic}")).await?;
//!     }
//!     Ok(session.flush().await?)
//! }
//!
//! type Prices = mpsc::Sender<String>;
//!
//! /// Handles the messages of the server.
//! async fn price(line: String, State(prices): State<Prices>) -> Result<NoReply, BoxError> {
//!     prices.send(line).await?;
//!     Ok(NoReply)
//! }
//!
//! fn client(server: SocketAddr, wanted: Wanted, prices: Prices) -> Client<String> {
//!     Client::builder()
//!         .with_hook(move |session| subscribe(session, wanted.clone()))
//!         .with_backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)))
//!         .connect(TcpConnector::new(), server, move |link| {
//!             ServiceBuilder::new()
//!                 .layer(IdleTimeoutLayer::new(Duration::from_secs(60)))
//!                 .layer(CodecLayer::new(Lines::new()))
//!                 .layer(link)
//!                 .layer(SessionLayer::new())
//!                 .service(handle_with::<_, _, String, String, _>(prices.clone(), price))
//!         })
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let server = spawn_server().await?; // closes each session after the price of tea
//!     let wanted = Wanted::default();
//!     wanted.0.lock().unwrap().extend(["gold".to_owned(), "tea".to_owned()]);
//!     let (sender, mut prices) = mpsc::channel(64);
//!     let client = client(server, wanted, sender);
//!
//!     for expected in ["gold 1", "tea 1", "gold 1", "tea 1"] {
//!         assert_eq!(prices.recv().await.as_deref(), Some(expected));
//!     }
//!     client.stop();
//!     client.stopped().await;
//!     Ok(())
//! }
//! # async fn spawn_server() -> Result<SocketAddr, BoxError> {
//! #     use getty::{Reply, handle, net::TcpListener};
//! #     let app = ServiceBuilder::new()
//! #         .layer(CodecLayer::new(Lines::new()))
//! #         .layer(SessionLayer::new())
//! #         .service(handle(|line: String| match line.strip_prefix("SUBSCRIBE ") {
//! #             Some("tea") => Reply::one("tea 1".to_owned()).and_close(),
//! #             Some(topic) => Reply::one(format!("{topic} 1")),
//! #             None => Reply::none(),
//! #         }));
//! #     let listener = TcpListener::bind("127.0.0.1:0").await?;
//! #     let address = listener.local_addr()?;
//! #     tokio::spawn(getty::serve(listener, app).into_future());
//! #     Ok(address)
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `with_hook`: [`Client::session`](crate::Client::session) and
//!   [`Client::send`](crate::Client::send) wait until the hook has succeeded. If it fails, the
//!   session closes and the attempt has failed.
//! - `Wanted`: the set is the truth, and a session only has a copy. To add a subscription,
//!   insert it and then send it. A session that opens meanwhile may subscribe twice, so the
//!   server must accept that.
//! - `.layer(link)`: hands the typed session to the client. It must be between `CodecLayer` and
//!   `SessionLayer`.
//! - `IdleTimeoutLayer`: a server that is unreachable sends no end. Where the server may be
//!   silent for long, use a [`HeartbeatLayer`](crate::layers::HeartbeatLayer).
//!
//! # Limits and errors
//!
//! - Messages that the server publishes between two sessions are lost, unless the protocol can
//!   ask for them, for example by a sequence number in the subscription.
//! - `feed` and `flush` do not wait for the server's confirmation. With a
//!   [`CorrelateLayer`](crate::layers::CorrelateLayer) the hook can await it with
//!   [`Session::request`](crate::Session::request).
//! - A session that was open for less than 5 s counts as a failed attempt, so the pauses grow.
//!   The client never gives up by default. See
//!   [`with_max_attempts`](crate::client::ClientBuilder::with_max_attempts) and
//!   [`with_retry_policy`](crate::client::ClientBuilder::with_retry_policy).
//! - `Client::send` waits without a limit while there is no session. Use tokio's `timeout`.
