//! A codec's adapter that sees every decoded message first, and may keep it to itself.
//!
//! What is taken here asks for no readiness, takes no permit and never reaches the handler, whatever the message stack is
//! waiting for: so pongs and answers arrive although the handlers are busy. What is sent passes through unchanged.
//!
//! ```
//! use bytes::BytesMut;
//! use getty_layers::tap::Tap;
//! use tokio_util::codec::{Decoder, LinesCodec};
//!
//! let mut codec = Tap::new(LinesCodec::new(), |line: String| (line != "PONG").then_some(line));
//! let mut received = BytesMut::from("PONG\nhello\nPONG\n");
//! assert_eq!(codec.decode(&mut received).unwrap().as_deref(), Some("hello"));
//! assert_eq!(codec.decode(&mut received).unwrap(), None);
//! ```

use std::{any::type_name, fmt};

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

/// What decides, for a [`Tap`], which messages go on. Every `FnMut(In) -> Option<In>` does.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot look at messages of type `{In}`, which the codec decodes",
    label = "this stack decodes `{In}`",
    note = "a `FnMut({In}) -> Option<{In}>` can"
)]
pub trait Keep<In> {
    /// The message, or another in its place, for the message stack; `None` where that is not to see it.
    fn keep(&mut self, message: In) -> Option<In>;
}

impl<In, F: FnMut(In) -> Option<In>> Keep<In> for F {
    #[inline]
    fn keep(&mut self, message: In) -> Option<In> {
        self(message)
    }
}

/// A codec without the messages that `K` does not [keep](Keep); see the [module](self).
///
/// Messages that are taken are not counted as received, unless `K` does so.
pub struct Tap<C, K> {
    codec: C,
    keep: K,
}

impl<C, K> Tap<C, K> {
    /// Puts `keep` behind the decoder of `codec`.
    pub const fn new(codec: C, keep: K) -> Self {
        Self { codec, keep }
    }

    /// The codec itself.
    pub const fn get_ref(&self) -> &C {
        &self.codec
    }
}

impl<C: Decoder, K: Keep<C::Item>> Decoder for Tap<C, K> {
    type Item = C::Item;
    type Error = C::Error;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode(src)? {
            if let Some(message) = self.keep.keep(message) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode_eof(src)? {
            if let Some(message) = self.keep.keep(message) {
                return Ok(Some(message));
            }
            if src.is_empty() {
                // that was a unit of a message transport, and for a codec that takes an empty one for a message there
                // would be no end to them; `decode` still yields what the codec itself may hold back
                return self.decode(src);
            }
        }
        Ok(None)
    }
}

impl<C: Encoder<Out>, K, Out> Encoder<Out> for Tap<C, K> {
    type Error = C::Error;

    #[inline]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.codec.encode(message, dst)
    }
}

impl<C: fmt::Debug, K> fmt::Debug for Tap<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("codec", &self.codec)
            .field("keep", &type_name::<K>())
            .finish()
    }
}
