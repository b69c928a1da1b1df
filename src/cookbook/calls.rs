//! Calls with a timeout and retries.
//!
//! A client makes many calls over one connection and awaits each response. A call must have a
//! deadline, and a failed call may be repeated only if that is safe.
//!
//! # Program
//!
//! ```
//! use std::{future, net::SocketAddr, time::Duration};
//!
//! use getty::{BoxError, Client, CodecLayer, MultiplexClient, NoReply, RequestError};
//! use getty::{ServiceBuilder, SessionLayer, codec::{Json, Lines}, handle, net::TcpConnector};
//! use getty::layers::{Correlate, CorrelateLayer, Delivery};
//! use serde::{Deserialize, Serialize};
//! use tower::{ServiceExt, retry::Policy, timeout::error::Elapsed};
//!
//! #[derive(Clone, Debug, Serialize, Deserialize)]
//! struct Message {
//!     id: u64,
//!     #[serde(flatten)]
//!     body: Body,
//! }
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Body {
//!     Square(u64),
//!     Value(u64),
//! }
//!
//! /// Reads and writes the id of a message.
//! struct ById;
//!
//! impl Correlate<Message> for ById {
//!     fn put(&self, id: u64, message: &mut Message) {
//!         message.id = id;
//!     }
//!
//!     fn response_id(&self, message: &Message) -> Option<u64> {
//!         matches!(message.body, Body::Value(_)).then_some(message.id)
//!     }
//! }
//!
//! /// Number of retries that a call may still make.
//! #[derive(Clone)]
//! struct Retries(usize);
//!
//! impl Policy<Message, Message, BoxError> for Retries {
//!     type Future = future::Ready<()>;
//!
//!     fn retry(
//!         &mut self,
//!         call: &mut Message,
//!         result: &mut Result<Message, BoxError>,
//!     ) -> Option<Self::Future> {
//!         let error = result.as_ref().err()?;
//!         let not_sent = error
//!             .downcast_ref::<RequestError<Message>>()
//!             .is_some_and(|error| error.delivery() == Delivery::NotSent);
//!         let idempotent = matches!(call.body, Body::Square(_));
//!         if !not_sent && !(idempotent && error.is::<Elapsed>()) {
//!             return None;
//!         }
//!         self.0 = self.0.checked_sub(1)?;
//!         Some(future::ready(()))
//!     }
//!
//!     fn clone_request(&mut self, call: &Message) -> Option<Message> {
//!         Some(call.clone())
//!     }
//! }
//!
//! fn client(server: SocketAddr) -> Client<Message> {
//!     Client::new(TcpConnector::new(), server, |link| {
//!         ServiceBuilder::new()
//!             .layer(CodecLayer::new(Json::new(Lines::new())))
//!             .layer(CorrelateLayer::new(ById))
//!             .layer(link)
//!             .layer(SessionLayer::new())
//!             .service(handle(|_: Message| NoReply)) // messages that are no response
//!     })
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let server = spawn_server().await?; // does not answer the first call
//!     let calls = ServiceBuilder::new()
//!         .retry(Retries(2))
//!         .timeout(Duration::from_millis(200))
//!         .service(MultiplexClient::<Message, Message, _>::new(client(server)));
//!
//!     let call = Message { id: 0, body: Body::Square(7) };
//!     let response = calls.clone().oneshot(call).await?;
//!     assert_eq!(response.body, Body::Value(49));
//!     Ok(())
//! }
//! # async fn spawn_server() -> Result<SocketAddr, BoxError> {
//! #     use std::sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}};
//! #     use getty::{State, handle_with, net::TcpListener};
//! #     fn answer(call: Message, State(calls): State<Arc<AtomicUsize>>) -> Option<Message> {
//! #         let Body::Square(n) = call.body else { return None };
//! #         let answers = calls.fetch_add(1, Relaxed) > 0;
//! #         answers.then(|| Message { body: Body::Value(n * n), ..call })
//! #     }
//! #     let app = ServiceBuilder::new()
//! #         .layer(CodecLayer::new(Json::new(Lines::new())))
//! #         .layer(SessionLayer::new())
//! #         .service(handle_with::<_, _, Message, Message, _>(Arc::default(), answer));
//! #     let listener = TcpListener::bind("127.0.0.1:0").await?;
//! #     let address = listener.local_addr()?;
//! #     tokio::spawn(getty::serve(listener, app).into_future());
//! #     Ok(address)
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `impl Correlate`: `put` sets the id of a request, and `response_id` finds the request of a
//!   response. A message without a response id goes to the stack's handler.
//! - `.timeout(..)` inside `.retry(..)`: each attempt has the deadline. A `timeout` outside
//!   `retry` limits all attempts together, and the wait for a session.
//! - [`delivery`](crate::RequestError::delivery): a request that was not sent can be repeated.
//!   A request that was sent may have taken effect, so only idempotent calls are repeated.
//! - `calls.clone().oneshot(..)`: clones share the client, and each call has a fresh `Retries`.
//!
//! # Limits and errors
//!
//! - `retry` is a feature of the crate `tower`, which the program must enable.
//! - A retry without a pause can overload a server. `Policy::Future` may be a tokio `sleep`.
//! - [`with_in_flight`](crate::call::RequestClient::with_in_flight) limits the calls in flight.
//!   The default is 256. Further calls wait.
//! - A late response is dropped and [counted](crate::Stats::late). Without tower's `timeout`
//!   the deadline is that of `CorrelateLayer`, 30 s by default.
//! - Protocols without ids need [`PipelineClient`](crate::PipelineClient) and
//!   [`CorrelateLayer::in_order`](crate::layers::CorrelateLayer). A missed deadline closes the
//!   session there.
