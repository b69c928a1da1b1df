//! Codec adapter that filters decoded messages before the message stack.
//!
//! A removed message polls no readiness, takes no permit and never reaches the handler. So
//! pongs and responses are received while all handlers are busy. Sent messages pass through
//! unchanged.
//!
//! ```
//! use bytes::BytesMut;
//! use getty_layers::filter_map::FilterMap;
//! use tokio_util::codec::{Decoder, LinesCodec};
//!
//! let filter = |line: String| (line != "PONG").then_some(line);
//! let mut codec = FilterMap::new(LinesCodec::new(), filter);
//! let mut received = BytesMut::from("PONG\nhello\nPONG\n");
//! assert_eq!(codec.decode(&mut received).unwrap().as_deref(), Some("hello"));
//! assert_eq!(codec.decode(&mut received).unwrap(), None);
//! ```

use std::{any::type_name, fmt};

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

/// Filter of a [`FilterMap`]. Implemented for every `FnMut(In) -> Option<In>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot filter messages of type `{In}`, which the codec decodes",
    label = "this stack decodes `{In}`",
    note = "a `FnMut({In}) -> Option<{In}>` can"
)]
pub trait MessageFilter<In> {
    /// Returns the message for the message stack, which may be another one, or `None` to remove it.
    fn filter(&mut self, message: In) -> Option<In>;
}

impl<In, F: FnMut(In) -> Option<In>> MessageFilter<In> for F {
    #[inline]
    fn filter(&mut self, message: In) -> Option<In> {
        self(message)
    }
}

/// Codec without the messages that a [`MessageFilter`] removes; see the [module](self).
///
/// Removed messages are not counted as received unless the filter counts them.
pub struct FilterMap<C, F> {
    codec: C,
    filter: F,
}

impl<C, F> FilterMap<C, F> {
    /// Creates a new codec that passes the messages of `codec` through `filter`.
    pub const fn new(codec: C, filter: F) -> Self {
        Self { codec, filter }
    }

    /// Returns a reference to the inner codec.
    pub const fn get_ref(&self) -> &C {
        &self.codec
    }
}

impl<C: Decoder, F: MessageFilter<C::Item>> Decoder for FilterMap<C, F> {
    type Item = C::Item;
    type Error = C::Error;

    // The session loop decodes in a second, rare place, which must not keep this one out of line.
    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode(src)? {
            if let Some(message) = self.filter.filter(message) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode_eof(src)? {
            if let Some(message) = self.filter.filter(message) {
                return Ok(Some(message));
            }
            if src.is_empty() {
                // That was a whole unit of a message transport. A codec that decodes an empty unit
                // as a message would never stop here, so continue with `decode`, which still
                // returns messages that the codec has buffered.
                return self.decode(src);
            }
        }
        Ok(None)
    }
}

impl<C: Encoder<Out>, F, Out> Encoder<Out> for FilterMap<C, F> {
    type Error = C::Error;

    #[inline]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.codec.encode(message, dst)
    }
}

impl<C: fmt::Debug, F> fmt::Debug for FilterMap<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterMap")
            .field("codec", &self.codec)
            .field("filter", &type_name::<F>())
            .finish()
    }
}
