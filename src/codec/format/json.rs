//! JSON, with `serde_json`.
//!
//! Over streams use it in [`Lines`](crate::codec::Lines) or in
//! [`LengthDelimited`](crate::codec::LengthDelimited). Over WebSocket use it in
//! [`Text`](crate::codec::Text). Scope: session.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
//! use getty::{codec::{Json, Lines}, layers::HandleMalformedLayer};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! #[serde(tag = "type", rename_all = "snake_case")]
//! enum Command {
//!     Say { text: String },
//!     Quit,
//! }
//!
//! // `Clone` for a `Group`, which sends one event to many sessions
//! #[derive(Clone, Serialize)]
//! #[serde(tag = "type", rename_all = "snake_case")]
//! enum Event {
//!     Said { text: String },
//!     Error { reason: String },
//! }
//!
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Json::new(Lines::new()).tolerant()))
//!     .layer(SessionLayer::new())
//!     .layer(HandleMalformedLayer::new(|malformed| Event::Error { reason: malformed.to_string() }))
//!     .service_fn(|request: Request<Command, Event>| async move {
//!         Ok::<_, BoxError>(match request.into_message() {
//!             Command::Say { text } => Some(Event::Said { text }),
//!             Command::Quit => None,
//!         })
//!     });
//! # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
//! # check(&stack);
//! ```
//!
//! A part of a message whose type depends on another part can be a
//! `serde_json::value::RawValue`, which is the JSON text as received. It costs one allocation
//! and is decoded later, or forwarded without being decoded. [`handler::Tagged`] is such a type
//! for a [`Router`](crate::Router). A custom one:
//!
//! ```
//! use getty::codec::{BytesMut, Decoder, Encoder, Json, Lines};
//! use serde::{Deserialize, Serialize};
//! use serde_json::value::RawValue;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Tagged {
//!     #[serde(rename = "type")]
//!     kind: String,
//!     data: Box<RawValue>,
//! }
//!
//! # fn main() -> Result<(), getty::BoxError> {
//! let mut codec = Json::<_, Tagged, Tagged>::new(Lines::new());
//! let mut buffer = BytesMut::from("{\"type\":\"move\",\"data\":{\"x\": 1}}\n");
//! let sent = buffer.clone();
//! let message = codec.decode(&mut buffer)?.unwrap();
//! assert_eq!((&*message.kind, message.data.get()), ("move", "{\"x\": 1}"));
//! codec.encode(message, &mut buffer)?;
//! assert_eq!(buffer, sent);
//! # Ok(())
//! # }
//! ```
//!
//! [`handler::Tagged`]: crate::handler::Tagged

use bytes::BytesMut;
use memchr::memchr;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::error::Category;
use tower::BoxError;

use super::{DecodePayload, EncodePayload, Typed, Writer};
use crate::codec::Malformed;

/// Codec for messages in JSON, in the frames of `C`; see the [module](self).
pub type Json<C, In, Out = In> = Typed<C, JsonFormat, In, Out>;

/// The format of [`Json`]: one value, sent without line feeds, so that every message is a line.
///
/// A line feed in the whitespace of a [`RawValue`](serde_json::value::RawValue) is sent as a
/// space, which has the same meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonFormat;

// the error names the missing `tolerant` where `T` is a `Result<_, Malformed>`
#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> DecodePayload<T> for JsonFormat {
    #[inline]
    fn decode_payload(&self, payload: &[u8]) -> Result<T, Malformed> {
        serde_json::from_slice(payload).map_err(|error| malformed(payload, error))
    }
}

#[cold]
fn malformed(payload: &[u8], error: serde_json::Error) -> Malformed {
    let kind = match error.classify() {
        Category::Eof => "unexpected end",
        Category::Data => "wrong type or value",
        Category::Syntax | Category::Io => "syntax error",
    };
    let summary = format!("{kind} at line {} column {}", error.line(), error.column());
    Malformed::with_summary("JSON", payload.len(), summary, error)
}

impl<T: Serialize> EncodePayload<T> for JsonFormat {
    #[inline]
    fn encode_payload(&self, message: &T, dst: &mut BytesMut) -> Result<(), BoxError> {
        let start = dst.len();
        serde_json::to_writer(Writer(dst), message)?;
        let mut rest = &mut dst[start..];
        while let Some(at) = memchr(b'\n', rest) {
            rest[at] = b' ';
            rest = &mut rest[at + 1..];
        }
        Ok(())
    }
}
