//! The codec of typed messages whose payload may be malformed.

use std::fmt;

use bytes::BytesMut;

use super::{DecodePayload, EncodePayload, FormatError, Typed};
use crate::codec::{Decoder, Encoder, FrameCodec, FrameLimit, Malformed};

/// Codec that decodes malformed messages into items; see [`Typed::tolerant`].
pub struct Tolerant<C, F, In, Out>(Typed<C, F, In, Out>);

impl<C, F, In, Out> Tolerant<C, F, In, Out> {
    pub(super) const fn new(codec: Typed<C, F, In, Out>) -> Self {
        Self(codec)
    }

    /// Returns a reference to the codec that was made tolerant.
    pub const fn get_ref(&self) -> &Typed<C, F, In, Out> {
        &self.0
    }
}

impl<C: FrameCodec, F: DecodePayload<In>, In, Out> Decoder for Tolerant<C, F, In, Out> {
    type Item = Result<In, Malformed>;
    /// Never [`FormatError::Malformed`].
    type Error = FormatError<C::Error>;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, Self::Error> {
        self.0.read(src)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, Self::Error> {
        self.0.read_eof(src)
    }
}

impl<C: FrameCodec, F: EncodePayload<Out>, In, Out> Encoder<Out> for Tolerant<C, F, In, Out> {
    type Error = FormatError<C::Error>;

    #[inline]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), Self::Error> {
        self.0.encode(message, dst)
    }
}

impl<C: FrameLimit, F, In, Out> FrameLimit for Tolerant<C, F, In, Out> {
    fn set_max_frame(&mut self, bytes: usize) {
        self.0.set_max_frame(bytes);
    }
}

impl<C: Clone, F: Clone, In, Out> Clone for Tolerant<C, F, In, Out> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: fmt::Debug, F: fmt::Debug, In, Out> fmt::Debug for Tolerant<C, F, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tolerant").field(&self.0).finish()
    }
}
