//! Protocol Buffers over TCP.
//!
//! A client in any language sends length-prefixed Protocol Buffers. The server must decode each
//! message and call the function for the content of its `oneof`.
//!
//! # Program
//!
//! ```
//! use futures_util::{SinkExt, StreamExt};
//! use getty::{BoxError, CodecLayer, Scope, ServiceBuilder, SessionLayer, dispatch};
//! use getty::codec::{Prost, VarintDelimited};
//! use getty::net::TcpListener;
//! use tokio_util::codec::Framed;
//!
//! // prost-build generates these types from a `.proto` file
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct Call {
//!     #[prost(oneof = "Method", tags = "1, 2")]
//!     method: Option<Method>,
//! }
//!
//! #[derive(Clone, PartialEq, prost::Oneof)]
//! enum Method {
//!     #[prost(message, tag = "1")]
//!     Add(Add),
//!     #[prost(string, tag = "2")]
//!     Reverse(String),
//! }
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct Add {
//!     #[prost(sint64, tag = "1")]
//!     a: i64,
//!     #[prost(sint64, tag = "2")]
//!     b: i64,
//! }
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct Answer {
//!     #[prost(string, tag = "1")]
//!     text: String,
//!     #[prost(string, tag = "2")]
//!     error: String,
//! }
//!
//! impl Answer {
//!     fn text(text: impl ToString) -> Self {
//!         Self { text: text.to_string(), ..Self::default() }
//!     }
//!
//!     fn error(error: impl ToString) -> Self {
//!         Self { error: error.to_string(), ..Self::default() }
//!     }
//! }
//!
//! fn add(Add { a, b }: Add) -> Result<Answer, Answer> {
//!     let sum = a.checked_add(b).ok_or_else(|| Answer::error("overflow"))?;
//!     Ok(Answer::text(sum))
//! }
//!
//! fn reverse(text: String) -> Answer {
//!     Answer::text(text.chars().rev().collect::<String>())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let handler = dispatch((), |call: Call, scope: Scope<Answer, ()>| match call.method {
//!         Some(Method::Add(operands)) => scope.call(add, operands),
//!         Some(Method::Reverse(text)) => scope.call(reverse, text),
//!         None => scope.call(|()| Answer::error("unknown method"), ()),
//!     });
//!     let frames = VarintDelimited::new().max_frame_length(4096);
//!     let app = ServiceBuilder::new()
//!         .layer(CodecLayer::new(Prost::new(frames)))
//!         .layer(SessionLayer::new())
//!         .service(handler);
//!
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     tokio::spawn(getty::serve(listener, app).into_future());
//!
//!     // the same codec, with the types exchanged, is the client's
//!     let stream = tokio::net::TcpStream::connect(address).await?;
//!     let codec = Prost::<_, Answer, Call>::new(VarintDelimited::new());
//!     let mut client = Framed::new(stream, codec);
//!     for (method, answer) in [
//!         (Some(Method::Add(Add { a: -1, b: 8 })), Answer::text(7)),
//!         (Some(Method::Add(Add { a: i64::MAX, b: 1 })), Answer::error("overflow")),
//!         (Some(Method::Reverse("ytteg".to_owned())), Answer::text("getty")),
//!         (None, Answer::error("unknown method")),
//!     ] {
//!         client.send(Call { method }).await?;
//!         assert_eq!(client.next().await.transpose()?, Some(answer));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Lines that matter
//!
//! - `Prost::new(VarintDelimited::new())`: each message follows its length as a varint. This is
//!   the format of `writeDelimitedTo` in Java and of Netty's `ProtobufVarint32FrameDecoder`.
//!   For a length of four bytes use [`LengthDelimited`](crate::codec::LengthDelimited).
//! - `dispatch`: the types of the messages are inferred from the closure. The `match` is
//!   exhaustive. No handler is `async`, so the closure returns the result of `scope.call`, and
//!   a call allocates nothing.
//! - `None`: a `oneof` that a later version of the protocol has extended arrives as `None`.
//!
//! # Limits and errors
//!
//! - A message that exceeds `max_frame_length` closes the session. The default is 64 KiB.
//! - Malformed content closes the session as
//!   [`CloseReason::Decode`](crate::CloseReason::Decode). Use
//!   [`tolerant`](crate::codec::format::Typed::tolerant) to reply to it.
//! - Protocol Buffers have no required fields. An empty message decodes as the defaults, so the
//!   handler must check the values.
//! - If one handler is `async`, the closure must be `async` and must await each `scope.call`.
//! - Over WebSocket and UDP use [`Binary`](crate::codec::Binary) in place of `VarintDelimited`.
