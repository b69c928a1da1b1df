//! Typed messages in the frames of another codec.
//!
//! | codec | feature | messages | over streams | over WebSocket and UDP |
//! |---|---|---|---|---|
//! | `Json` | `json` | `Serialize`, `Deserialize` | `Lines`, `LengthDelimited` | `Text` |
//! | `MessagePack` | `messagepack` | serde's | `LengthDelimited` | `Binary` |
//! | `Postcard` | `postcard` | serde's | `LengthDelimited` | `Binary` |
//! | `Prost` | `prost` | `prost::Message` | `VarintDelimited` | `Binary` |
//!
//! Each is a [`Typed`] codec. It wraps a [`FrameCodec`] and is passed to `CodecLayer` in its
//! place. The types of the messages are inferred from a [`Router`](crate::handler::Router) or
//! from a closure with an argument `Request<In, Out>`. With [`handle`](crate::handle) the codec
//! names them: `Json::<_, Message>::new(..)`, or `Json::<_, In, Out>::new(..)` if the two
//! directions differ. `handler::Json` and its like decode the payload of a message later, in
//! the handler. Another format needs an implementation of [`DecodePayload`] and
//! [`EncodePayload`].
//!
//! A message is decoded in the read buffer and encoded into the write buffer. Neither direction
//! copies the frame, and encoding allocates nothing.
//!
//! # Malformed messages
//!
//! There are two kinds of errors. After an invalid frame the rest of the stream cannot be
//! decoded. A frame with a malformed payload does not affect the next one.
//!
//! | a received frame | [`Typed`] | [`Typed::tolerant`] |
//! |---|---|---|
//! | is too long or truncated | [`FormatError::Frame`] | [`FormatError::Frame`] |
//! | has a malformed payload | [`FormatError::Malformed`] | the item `Err(`[`Malformed`]`)` |
//!
//! Both errors close the session with [`CloseReason::Decode`](crate::CloseReason::Decode). A
//! [`HandleMalformedLayer`](crate::layers::HandleMalformedLayer) replies to the item, so that
//! the layers and the handler inside it receive messages only. A payload is malformed if it is
//! not in the format or not of the message's type, if bytes follow the message, or if values
//! are nested too deeply.
//!
//! Use [`Typed::tolerant`] and `HandleMalformedLayer` together. The compiler reports one
//! without the other in terms of their types:
//!
//! | the stack has | the compiler's error |
//! |---|---|
//! | `HandleMalformedLayer` only | the format cannot decode a `Result<In, Malformed>` |
//! | `tolerant()` only | the handler is no service of `Request<Result<In, Malformed>, _>` |
//!
//! A payload that an argument such as `handler::Json` decodes in the handler is not such an
//! item. If it is malformed, the call fails with [`Malformed`], and a
//! [`HandleErrorLayer`](crate::layers::HandleErrorLayer) replies.
//!
//! Nesting is limited because each level needs stack memory. The maximum is 128 levels in JSON
//! and MessagePack, and 100 levels in Protocol Buffers. In postcard it is 128 levels of
//! options, sequences, maps and enums.

#[cfg(feature = "json")]
pub mod json;
#[cfg(feature = "messagepack")]
pub mod message_pack;
#[cfg(feature = "postcard")]
pub mod postcard;
#[cfg(feature = "prost")]
pub mod prost;

mod error;
mod tolerant;
mod typed;

use bytes::BytesMut;
use tower::BoxError;

pub use self::{error::FormatError, tolerant::Tolerant, typed::Typed};
#[cfg(doc)]
use super::FrameCodec;
use super::Malformed;

/// Formats that decode a payload into a `T`.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, Encoder, Lines, Malformed};
/// use getty::codec::format::{DecodePayload, EncodePayload, Typed};
/// use getty::BoxError;
/// use std::fmt::Write;
///
/// /// Numbers in decimal.
/// #[derive(Clone, Copy, Debug, Default)]
/// struct Decimal;
///
/// impl DecodePayload<u64> for Decimal {
///     fn decode_payload(&self, payload: &[u8]) -> Result<u64, Malformed> {
///         let malformed = |error| Malformed::new("decimal", payload.len(), error);
///         let text = str::from_utf8(payload).map_err(|error| malformed(BoxError::from(error)))?;
///         text.parse().map_err(|error| malformed(BoxError::from(error)))
///     }
/// }
///
/// impl EncodePayload<u64> for Decimal {
///     fn encode_payload(&self, message: &u64, dst: &mut BytesMut) -> Result<(), BoxError> {
///         Ok(write!(dst, "{message}")?)
///     }
/// }
///
/// # fn main() -> Result<(), BoxError> {
/// let mut codec = Typed::<_, Decimal, u64, u64>::new(Lines::new()).tolerant();
/// let mut buffer = BytesMut::new();
/// codec.encode(1234, &mut buffer)?;
/// assert_eq!(buffer, "1234\n");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap()?, 1234);
///
/// buffer.extend_from_slice(b"12x4\n");
/// let malformed = codec.decode(&mut buffer)?.unwrap().unwrap_err();
/// assert_eq!(malformed.to_string(), "malformed decimal of 4 bytes");
/// assert_eq!(malformed.reason().to_string(), "invalid digit found in string");
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "the format `{Self}` cannot decode a `{T}`",
    note = "derive what the format requires: serde's `Deserialize`, or prost's `Message`",
    note = "a `Result<_, Malformed>`, as for a `HandleMalformedLayer`, needs `.tolerant()` on the codec"
)]
pub trait DecodePayload<T> {
    /// Decodes a payload of one message and nothing else.
    ///
    /// # Errors
    ///
    /// Returns an error if the payload is not one complete `T` in this format.
    fn decode_payload(&self, payload: &[u8]) -> Result<T, Malformed>;
}

/// Formats that encode a `T`; see [`DecodePayload`] for an example.
#[diagnostic::on_unimplemented(
    message = "the format `{Self}` cannot encode a `{T}`",
    note = "derive what the format requires: serde's `Serialize`, or prost's `Message`"
)]
pub trait EncodePayload<T> {
    /// Appends the encoded message to `dst`, which may contain other bytes already.
    ///
    /// # Errors
    ///
    /// Returns an error if the message cannot be expressed in this format. The caller then removes
    /// all bytes that were appended.
    fn encode_payload(&self, message: &T, dst: &mut BytesMut) -> Result<(), BoxError>;
}

#[cfg(all(
    test,
    feature = "json",
    feature = "messagepack",
    feature = "postcard",
    feature = "prost"
))]
mod tests;

/// Writes into a buffer that grows.
#[cfg(any(feature = "json", feature = "messagepack"))]
struct Writer<'a>(&'a mut BytesMut);

#[cfg(any(feature = "json", feature = "messagepack"))]
impl std::io::Write for Writer<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
