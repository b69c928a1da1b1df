//! A restart without lost replies.
//!
//! A new version of the server replaces the running one. Calls in flight must get their
//! replies, and later calls must reach the new version without an error.
//!
//! # Program
//!
//! ```
//! use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
//!
//! use getty::{BoxError, Client, CodecLayer, Drained, NoReply, PipelineClient, RequestError};
//! use getty::{ServiceBuilder, Session, SessionLayer, State, client::Backoff, codec::Lines};
//! use getty::{handle, handle_with, layers::CorrelateLayer, net::{TcpConnector, TcpListener}};
//! use tokio::sync::{Notify, oneshot};
//! use getty::tower::ServiceExt;
//!
//! #[derive(Clone)]
//! struct App {
//!     version: &'static str,
//!     started: Arc<Notify>,
//! }
//!
//! async fn answer(line: String, session: Session<String>, State(app): State<App>) -> String {
//!     if line == "slow" {
//!         app.started.notify_one();
//!         session.closing().await; // work that ends after the shutdown has begun
//!     }
//!     format!("{line} by {}", app.version)
//! }
//!
//! async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
//!     TcpListener::builder().with_reuse_port(true).bind(address).await
//! }
//!
//! async fn serve<F>(listener: TcpListener, app: App, stop: F) -> Result<Drained, BoxError>
//! where
//!     F: Future<Output = ()> + Send + 'static,
//! {
//!     let stack = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(SessionLayer::new())
//!         .service(handle_with::<_, _, String, String, _>(app, answer));
//!     let drained = getty::serve(listener, stack)
//!         .with_graceful_shutdown(stop) // usually getty::shutdown_signal()
//!         .with_drain_deadline(Duration::from_secs(30))
//!         .await?;
//!     Ok(drained)
//! }
//!
//! type Calls = PipelineClient<String, String, Client<String>>;
//!
//! fn client(server: SocketAddr) -> Calls {
//!     let client = Client::builder()
//!         .with_backoff(Backoff::new(Duration::from_millis(10), Duration::from_secs(1)))
//!         .connect(TcpConnector::new(), server, |link| {
//!             ServiceBuilder::new()
//!                 .layer(CodecLayer::new(Lines::new()))
//!                 .layer(CorrelateLayer::in_order())
//!                 .layer(link)
//!                 .layer(SessionLayer::new())
//!                 .service(handle(|_: String| NoReply))
//!         });
//!     PipelineClient::new(client)
//! }
//!
//! /// Repeats a call that got no response because its session has closed.
//! async fn call(calls: Calls, line: &str) -> Result<String, RequestError<String>> {
//!     loop {
//!         match calls.clone().oneshot(line.to_owned()).await {
//!             Err(error) if error.is_closed() => {}
//!             result => return result,
//!         }
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let started = Arc::new(Notify::new());
//!     let app = |version| App { version, started: started.clone() };
//!     let (stop, stopped) = oneshot::channel::<()>();
//!     let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
//!     let address = listener.local_addr()?;
//!     let old = tokio::spawn(serve(listener, app("v1"), async { drop(stopped.await) }));
//!
//!     let calls = client(address);
//!     let slow = tokio::spawn(call(calls.clone(), "slow"));
//!     started.notified().await;
//!
//!     // the new process listens before the old one is stopped
//!     let listener = listen(address).await?;
//!     tokio::spawn(serve(listener, app("v2"), std::future::pending()));
//!     let next = tokio::spawn(call(calls, "next"));
//!     drop(stop);
//!
//!     assert_eq!(slow.await??, "slow by v1");
//!     assert_eq!(next.await??, "next by v2");
//!     assert_eq!(old.await??.to_string(), "1 finished, 0 aborted");
//!     Ok(())
//! }
//! ```
//!
//! # Lines that matter
//!
//! - `with_graceful_shutdown`: the listener is dropped and each session closes. The handler in
//!   flight finishes, its reply is flushed, and then the connection ends.
//! - `with_drain_deadline`: the time that handlers may take. The default is 5 s. The supervisor
//!   of the process must wait longer before it kills the process.
//! - `with_reuse_port`: both processes listen on the port for a moment, so no connection is
//!   refused.
//! - `Client`: opens the next session when the old one ends. Calls wait for it meanwhile.
//! - `call`: a request that arrived while another was handled has no handler yet when the
//!   session closes. Its reply never comes, and the call fails as
//!   [`RequestError::Closed`](crate::RequestError::Closed).
//!
//! # Limits and errors
//!
//! - `call` repeats each request, so the requests must be idempotent. Otherwise repeat only
//!   those whose [`delivery`](crate::RequestError::delivery) is `NotSent`. The server cannot
//!   say which of the others it has handled.
//! - Connections in the backlog of the old listener are lost. A `Client` dials again. To lose
//!   none, both processes must inherit one socket from a service manager. A
//!   [`TcpListener`](crate::net::TcpListener) can be made from the standard library's.
//! - [`Drained::aborted`](crate::Drained) counts connections that did not finish in time. A
//!   connection whose requests had no handler yet is counted as finished. Their number is
//!   [`Closed::unhandled_messages`](crate::Closed), which a
//!   [`TraceLayer`](crate::layers::TraceLayer) logs.
//! - All clients reconnect at once.
//!   [`with_staggered_close`](crate::Serve::with_staggered_close) spreads the closes over a
//!   time.
//! - Messages that are pushed without a request are flushed, and no peer confirms them. They
//!   need sequence numbers; see [`reconnect`](super::reconnect).
