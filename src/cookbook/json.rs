//! JSON requests and replies with typed errors.
//!
//! A service answers each line of JSON with a line of JSON. A failed request must get an error
//! that a program can distinguish, and the session must continue.
//!
//! # Program
//!
//! ```
//! use std::num::ParseIntError;
//!
//! use getty::{BoxError, CodecLayer, IntoReply, Reply, ServiceBuilder, SessionLayer};
//! use getty::codec::{Json, Lines, Malformed};
//! use getty::{handle_with, layers::HandleMalformedLayer, net::TcpListener};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Command {
//!     Divide { a: i64, b: i64 },
//!     Parse { text: String },
//! }
//!
//! #[derive(Serialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Answer {
//!     Value(i64),
//!     Error { code: &'static str, detail: String },
//! }
//!
//! enum Failure {
//!     DivisionByZero,
//!     NotANumber(ParseIntError),
//!     Malformed(Malformed),
//! }
//!
//! impl From<ParseIntError> for Failure {
//!     fn from(error: ParseIntError) -> Self {
//!         Self::NotANumber(error)
//!     }
//! }
//!
//! // the only place that decides what a client sees of an error
//! impl IntoReply<Answer> for Failure {
//!     fn into_reply(self) -> Reply<Answer> {
//!         let (code, detail) = match self {
//!             Self::DivisionByZero => ("division_by_zero", String::new()),
//!             Self::NotANumber(error) => ("not_a_number", error.to_string()),
//!             Self::Malformed(error) => ("malformed", error.to_string()),
//!         };
//!         Reply::one(Answer::Error { code, detail })
//!     }
//! }
//!
//! fn calculate(command: Command) -> Result<Answer, Failure> {
//!     match command {
//!         Command::Divide { b: 0, .. } => Err(Failure::DivisionByZero),
//!         Command::Divide { a, b } => Ok(Answer::Value(a.wrapping_div(b))),
//!         Command::Parse { text } => Ok(Answer::Value(text.parse()?)),
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let codec = Json::<_, Command, Answer>::new(Lines::new().with_max_length(4096));
//!     let app = ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec.tolerant()))
//!         .layer(SessionLayer::new())
//!         .layer(HandleMalformedLayer::new(Failure::Malformed))
//!         .service(handle_with((), calculate));
//!
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     tokio::spawn(getty::serve(listener, app).into_future());
//!
//!     let commands = [
//!         r#"{"divide":{"a":42,"b":6}}"#,
//!         r#"{"divide":{"a":1,"b":0}}"#,
//!         r#"{"parse":{"text":"seven"}}"#,
//!         "not JSON",
//!     ];
//!     let answers = talk(address, commands).await?;
//!     assert_eq!(answers[0], r#"{"value":7}"#);
//!     assert_eq!(answers[1], r#"{"error":{"code":"division_by_zero","detail":""}}"#);
//!     assert!(answers[2].contains("not_a_number"));
//!     assert!(answers[3].contains("malformed JSON of 8 bytes"));
//!     Ok(())
//! }
//! # async fn talk<const N: usize>(
//! #     address: std::net::SocketAddr,
//! #     lines: [&str; N],
//! # ) -> std::io::Result<Vec<String>> {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     let mut stream = tokio::net::TcpStream::connect(address).await?;
//! #     stream.write_all((lines.join("\n") + "\n").as_bytes()).await?;
//! #     stream.shutdown().await?;
//! #     let mut received = String::new();
//! #     stream.read_to_string(&mut received).await?;
//! #     Ok(received.lines().map(str::to_owned).collect())
//! # }
//! ```
//!
//! # Lines that matter
//!
//! - `impl IntoReply<Answer> for Failure`: a handler may return `Result<_, Failure>`, and the
//!   error is the reply. `?` works in the handler through `From`.
//! - `Json::<_, Command, Answer>`: the codec names the types of both directions.
//!   `handle_with((), ..)` is for two different types, and `handle(..)` for one type.
//! - `.tolerant()` and `HandleMalformedLayer`: a line that is not a `Command` gets a reply.
//!   Without the two it closes the session as
//!   [`CloseReason::Decode`](crate::CloseReason::Decode).
//!
//! # Limits and errors
//!
//! - A line that exceeds `with_max_length` closes the session. The default is 64 KiB; see
//!   [`Lines`](crate::codec::Lines).
//! - A client may send malformed lines without end. To disconnect it, reply with
//!   [`Reply::and_close_with`](crate::Reply::and_close_with).
//! - A handler that returns `Result<_, BoxError>` closes the session with its error, unless a
//!   [`HandleErrorLayer`](crate::layers::HandleErrorLayer) converts it. tower's `timeout` and
//!   `load_shed` also return such errors.
//! - Replies have no request id. They are sent in the order of the requests. See
//!   [`calls`](super::calls) for ids.
