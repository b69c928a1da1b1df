//! postcard, a compact binary format for serde.
//!
//! Over streams use it in [`LengthDelimited`](crate::codec::LengthDelimited). Over WebSocket
//! and UDP use it in [`Binary`](crate::codec::Binary). Scope: session. A message contains
//! neither names nor types of its fields, so both sides must have the same type.
//!
//! ```
//! use getty::codec::{BytesMut, Decoder, Encoder, LengthDelimited, Postcard};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Input {
//!     Step { dx: i8, dy: i8 },
//!     Say(String),
//! }
//!
//! # fn main() -> Result<(), getty::BoxError> {
//! let mut codec = Postcard::new(LengthDelimited::new());
//! let mut buffer = BytesMut::new();
//! codec.encode(Input::Say("hi".to_owned()), &mut buffer)?;
//! assert_eq!(buffer, b"\0\0\0\x04\x01\x02hi"[..]);
//! assert_eq!(codec.decode(&mut buffer)?, Some(Input::Say("hi".to_owned())));
//! # Ok(())
//! # }
//! ```

mod depth;

use bytes::BytesMut;
use postcard::{Deserializer, Error, ser_flavors::Flavor};
use serde::{Serialize, de::DeserializeOwned};
use tower::BoxError;

use self::depth::Limited;
use super::{DecodePayload, EncodePayload, Typed};
use crate::codec::Malformed;

/// Maximum nesting of a message, in levels, as in JSON.
const MAX_DEPTH: u8 = 128;

/// Codec for messages in postcard, in the frames of `C`; see the [module](self).
pub type Postcard<C, In, Out = In> = Typed<C, PostcardFormat, In, Out>;

/// The format of [`Postcard`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PostcardFormat;

// the error names the missing `tolerant` where `T` is a `Result<_, Malformed>`
#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> DecodePayload<T> for PostcardFormat {
    #[inline]
    fn decode_payload(&self, payload: &[u8]) -> Result<T, Malformed> {
        let mut decoder = Deserializer::from_bytes(payload);
        let message = T::deserialize(Limited::new(&mut decoder, MAX_DEPTH));
        match message.and_then(|message| Ok((message, decoder.finalize()?))) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(malformed(payload, "bytes after the message")),
            Err(error) => Err(malformed(payload, error)),
        }
    }
}

/// An error of postcard never quotes the payload, so its text may be the summary.
#[cold]
fn malformed(payload: &[u8], error: impl Into<BoxError>) -> Malformed {
    let error = error.into();
    Malformed::with_summary("postcard", payload.len(), error.to_string(), error)
}

impl<T: Serialize> EncodePayload<T> for PostcardFormat {
    #[inline]
    fn encode_payload(&self, message: &T, dst: &mut BytesMut) -> Result<(), BoxError> {
        Ok(postcard::serialize_with_flavor(message, Buffer(dst))?)
    }
}

/// Writes into a buffer that grows.
struct Buffer<'a>(&'a mut BytesMut);

impl Flavor for Buffer<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, byte: u8) -> Result<(), Error> {
        self.try_extend(&[byte])
    }

    fn finalize(self) -> Result<(), Error> {
        Ok(())
    }
}
