//! Binary messages with an opcode.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tower::BoxError;

use super::{Keyed, Payload, RouteKey};

/// Binary message: an opcode and a payload that is not decoded yet.
///
/// Its opcode is the key of a [`Router`](super::Router). An argument such as `Postcard<T>`
/// decodes the payload. The codec [`Packets`](crate::codec::Packets) puts both into a frame
/// with the opcode first. A clone shares the payload.
///
/// ```
/// # #[cfg(feature = "postcard")]
/// # fn main() {
/// use getty::codec::{LengthDelimited, Packets};
/// use getty::handler::{Packet, Postcard, Router};
/// use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, layers::HandleErrorLayer};
///
/// const ERROR: u16 = 0;
/// const ADD: u16 = 1;
/// const SUM: u16 = 2;
///
/// fn add(Postcard((a, b)): Postcard<(u32, u32)>) -> Packet {
///     Packet::new(SUM, Postcard(a.wrapping_add(b)))
/// }
///
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(Packets::new(LengthDelimited::new())))
///     .layer(SessionLayer::new())
///     // a malformed payload, or an opcode without a route
///     .layer(HandleErrorLayer::new(|error: BoxError| {
///         Packet::new(ERROR, Postcard(error.to_string()))
///     }))
///     .service(Router::<Packet, Packet>::new().route(ADD, add));
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// # }
/// # #[cfg(not(feature = "postcard"))]
/// # fn main() {}
/// ```
///
/// The opcode may be `u8`, `u16` or `u32` in big-endian order or another [`Opcode`].
///
/// A group does not know the size of a packet before one is sent. `CodecLayer::with_weight` can
/// return the length of its payload.
#[doc(alias("message id", "command id"))]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Packet<K = u16> {
    /// The opcode.
    pub opcode: K,
    /// The encoded payload.
    pub payload: Bytes,
}

impl<K> Packet<K> {
    /// Creates a new packet. The payload may be bytes or text or a value in a format such as
    /// `Postcard(&value)`.
    ///
    /// # Panics
    ///
    /// If the value cannot be expressed in the format. Bytes and text can always be expressed, and
    /// so can types with a derived `Serialize` over numbers, text and collections.
    /// [`try_new`](Self::try_new) returns an error instead.
    #[track_caller]
    pub fn new(opcode: K, payload: impl IntoPayload) -> Self {
        match Self::try_new(opcode, payload) {
            Ok(packet) => packet,
            Err(error) => panic!("the payload of a packet cannot be encoded: {error}"),
        }
    }

    /// Creates a new packet, as [`new`](Self::new) does.
    ///
    /// # Errors
    ///
    /// Returns an error if the value cannot be expressed in the format.
    pub fn try_new(opcode: K, payload: impl IntoPayload) -> Result<Self, BoxError> {
        let payload = payload.into_payload()?;
        Ok(Self { opcode, payload })
    }
}

/// Contains the opcode and the length of the payload because a message may contain secrets.
impl<K: fmt::Debug> fmt::Debug for Packet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("opcode", &self.opcode)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

impl<K: RouteKey> Keyed for Packet<K> {
    type Key = K;

    #[inline]
    fn key(&self) -> &K {
        &self.opcode
    }
}

impl<K> Payload for Packet<K> {
    #[inline]
    fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Opcodes of a [`Packet`], as they are in front of its payload.
///
/// `u8`, `u16` and `u32` are in big-endian order. Another order must be a separate type. So
/// must an enum that a handler matches instead of a router:
///
/// ```
/// use getty::codec::{Buf, BufMut, Bytes, BytesMut};
/// use getty::handler::Opcode;
///
/// #[derive(Clone, Copy)]
/// enum Kind {
///     Step = 1,
///     Say = 2,
/// }
///
/// impl Opcode for Kind {
///     fn decode(frame: &mut Bytes) -> Option<Self> {
///         match frame.try_get_u16_le().ok()? {
///             1 => Some(Self::Step),
///             2 => Some(Self::Say),
///             _ => None,
///         }
///     }
///
///     fn encode(&self, frame: &mut BytesMut) {
///         frame.put_u16_le(*self as u16);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the opcode of a `Packet`",
    note = "opcodes are `u8`, `u16` and `u32`; others need `impl Opcode for {Self}`"
)]
pub trait Opcode: Sized {
    /// Removes the opcode from the front of a frame. Returns `None` if the frame does not begin
    /// with one. The session then closes with [`CloseReason::Decode`](crate::CloseReason::Decode).
    fn decode(frame: &mut Bytes) -> Option<Self>;

    /// Appends the opcode to a frame that has no payload yet.
    fn encode(&self, frame: &mut BytesMut);
}

macro_rules! opcodes {
    ($($number:ty, $get:ident, $put:ident;)*) => {$(
        impl Opcode for $number {
            #[inline]
            fn decode(frame: &mut Bytes) -> Option<Self> {
                frame.$get().ok()
            }

            #[inline]
            fn encode(&self, frame: &mut BytesMut) {
                frame.$put(*self);
            }
        }
    )*};
}

opcodes! {
    u8, try_get_u8, put_u8;
    u16, try_get_u16, put_u16;
    u32, try_get_u32, put_u32;
}

/// Conversion into the payload of a [`Packet`].
///
/// | value | payload |
/// |---|---|
/// | `Bytes`, `BytesMut`, `Vec<u8>`, `String` | the bytes, not copied |
/// | `&[u8]`, `&[u8; N]`, `&str` | a copy of the bytes |
/// | `()` | empty |
/// | `Json`, `MessagePack`, `Postcard` of a value or a reference | the value in this format |
/// | `Prost` of a message | the message in this format |
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the payload of a `Packet`",
    note = "a payload is bytes or text, or a value in a format such as `Postcard(&value)`"
)]
pub trait IntoPayload {
    /// Encodes the value.
    ///
    /// # Errors
    ///
    /// Returns an error if the value cannot be expressed in its format.
    fn into_payload(self) -> Result<Bytes, BoxError>;
}

macro_rules! bytes {
    ($($from:ty, $bytes:ident => $payload:expr;)*) => {$(
        impl IntoPayload for $from {
            #[inline]
            fn into_payload(self) -> Result<Bytes, BoxError> {
                let $bytes = self;
                Ok($payload)
            }
        }
    )*};
}

bytes! {
    Bytes, bytes => bytes;
    BytesMut, bytes => bytes.freeze();
    Vec<u8>, bytes => bytes.into();
    String, text => text.into();
    &[u8], bytes => Bytes::copy_from_slice(bytes);
    &str, text => Bytes::copy_from_slice(text.as_bytes());
    (), _nothing => Bytes::new();
}

impl<const N: usize> IntoPayload for &[u8; N] {
    #[inline]
    fn into_payload(self) -> Result<Bytes, BoxError> {
        Ok(Bytes::copy_from_slice(self))
    }
}
