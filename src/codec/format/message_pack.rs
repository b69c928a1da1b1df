//! MessagePack, with rmp-serde.
//!
//! Over streams use it in [`LengthDelimited`](crate::codec::LengthDelimited). Over WebSocket
//! use it in [`Binary`](crate::codec::Binary). Scope: session.
//!
//! ```
//! use getty::codec::{Binary, BytesMut, Decoder, Encoder, MessagePack};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Point {
//!     x: i32,
//!     y: i32,
//! }
//!
//! # fn main() -> Result<(), getty::BoxError> {
//! let mut codec = MessagePack::new(Binary::new());
//! let mut message = BytesMut::new();
//! codec.encode(Point { x: 7, y: -1 }, &mut message)?;
//! assert_eq!(message, b"\x82\xa1x\x07\xa1y\xff"[..]);
//! assert_eq!(codec.decode_eof(&mut message)?, Some(Point { x: 7, y: -1 }));
//! # Ok(())
//! # }
//! ```

use std::io::ErrorKind;

use bytes::BytesMut;
use rmp_serde::{Deserializer, Serializer, decode::Error};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tower::BoxError;

use super::{DecodePayload, EncodePayload, Typed, Writer};
use crate::codec::Malformed;

/// Maximum nesting of a message, in levels, as in JSON.
const MAX_DEPTH: usize = 128;

/// Codec for messages in MessagePack, in the frames of `C`; see the [module](self).
pub type MessagePack<C, In, Out = In> = Typed<C, MessagePackFormat, In, Out>;

/// The format of [`MessagePack`].
///
/// A struct is sent as a map with the names of its fields, as most libraries for other
/// languages expect. A received struct may be a map or an array.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePackFormat {
    arrays: bool,
}

impl MessagePackFormat {
    /// Sends structs as arrays of their fields without names, as `rmp_serde::to_vec` does. Messages
    /// are then shorter, and both sides must have the same fields in the same order. The default
    /// is maps.
    #[must_use]
    pub const fn with_structs_as_arrays(mut self) -> Self {
        self.arrays = true;
        self
    }
}

// the error names the missing `tolerant` where `T` is a `Result<_, Malformed>`
#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> DecodePayload<T> for MessagePackFormat {
    #[inline]
    fn decode_payload(&self, payload: &[u8]) -> Result<T, Malformed> {
        let mut decoder = Deserializer::from_read_ref(payload);
        // The decoder fails at the level at which its counter reaches zero.
        decoder.set_max_depth(MAX_DEPTH + 1);
        let message = T::deserialize(&mut decoder).map_err(|error| malformed(payload, error))?;
        // The decoder has no method that returns the remaining bytes.
        match <()>::deserialize(&mut decoder) {
            Err(Error::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => {
                Ok(message)
            }
            _ => Err(trailing(payload)),
        }
    }
}

#[cold]
fn malformed(payload: &[u8], error: Error) -> Malformed {
    let summary = match &error {
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => "unexpected end",
        Error::DepthLimitExceeded => "nested too deeply",
        Error::Utf8Error(_) => "text is not UTF-8",
        _ => "wrong type or value",
    };
    Malformed::with_summary("MessagePack", payload.len(), summary, error)
}

#[cold]
fn trailing(payload: &[u8]) -> Malformed {
    let summary = "bytes after the message";
    Malformed::with_summary("MessagePack", payload.len(), summary, summary)
}

impl<T: Serialize> EncodePayload<T> for MessagePackFormat {
    #[inline]
    fn encode_payload(&self, message: &T, dst: &mut BytesMut) -> Result<(), BoxError> {
        let mut encoder = Serializer::new(Writer(dst));
        if self.arrays {
            message.serialize(&mut encoder)?;
        } else {
            message.serialize(&mut encoder.with_struct_map())?;
        }
        Ok(())
    }
}
