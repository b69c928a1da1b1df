//! The codec of typed messages.

use std::{fmt, marker::PhantomData};

use bytes::BytesMut;

use super::{DecodePayload, EncodePayload, FormatError, Tolerant};
use crate::codec::{Decoder, Encoder, FrameCodec, FrameLimit, Malformed};

/// Codec for messages of the types `In` and `Out`, in the format `F`, in the frames of `C`.
///
/// Each format has an alias for it, such as `codec::Json`. `In` is the type of received
/// messages, and `Out` is the type of sent messages. See the [module](super) for malformed
/// messages.
///
/// # Errors
///
/// After [`FormatError::Frame`] decoding can continue if the codec of the frames permits it.
/// After [`FormatError::Malformed`] the frame has been removed from the buffer, and the next
/// one can be decoded. A message that cannot be encoded leaves no bytes in the buffer.
pub struct Typed<C, F, In, Out> {
    frames: C,
    format: F,
    types: PhantomData<fn(Out) -> In>,
}

impl<C, F, In, Out> Typed<C, F, In, Out> {
    /// Creates a new codec with messages in the frames of `frames`. The maximum length of a
    /// message is that of `frames`.
    pub fn new(frames: C) -> Self
    where
        F: Default,
    {
        Self::with_format(frames, F::default())
    }

    /// Creates a new codec like [`new`](Self::new), with the settings of `format`.
    pub const fn with_format(frames: C, format: F) -> Self {
        Self {
            frames,
            format,
            types: PhantomData,
        }
    }

    /// Decodes malformed messages into items, to which a
    /// [`HandleMalformedLayer`](crate::layers::HandleMalformedLayer) or the handler replies. By
    /// default a malformed message closes the session. An invalid frame always does.
    ///
    /// Each item is a `Result<In, Malformed>`. The maximum length still applies. The number of
    /// malformed messages has no limit. To limit it, count them and reply with
    /// [`Reply::and_close_with`](crate::Reply::and_close_with).
    #[must_use]
    pub const fn tolerant(self) -> Tolerant<C, F, In, Out> {
        Tolerant::new(self)
    }

    /// Returns the codec of the frames.
    pub const fn frames(&self) -> &C {
        &self.frames
    }

    /// Returns the format.
    pub const fn format(&self) -> &F {
        &self.format
    }
}

impl<C: FrameCodec, F: DecodePayload<In>, In, Out> Typed<C, F, In, Out> {
    #[inline]
    pub(super) fn read(
        &mut self,
        src: &mut BytesMut,
    ) -> Result<Option<Result<In, Malformed>>, FormatError<C::Error>> {
        let format = &self.format;
        self.frames
            .read_frame(src, |payload| format.decode_payload(payload))
            .map_err(FormatError::Frame)
    }

    #[inline]
    pub(super) fn read_eof(
        &mut self,
        src: &mut BytesMut,
    ) -> Result<Option<Result<In, Malformed>>, FormatError<C::Error>> {
        let format = &self.format;
        self.frames
            .read_frame_eof(src, |payload| format.decode_payload(payload))
            .map_err(FormatError::Frame)
    }
}

impl<C: FrameCodec, F: DecodePayload<In>, In, Out> Decoder for Typed<C, F, In, Out> {
    type Item = In;
    type Error = FormatError<C::Error>;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<In>, Self::Error> {
        let item = self.read(src)?;
        item.transpose().map_err(FormatError::Malformed)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<In>, Self::Error> {
        let item = self.read_eof(src)?;
        item.transpose().map_err(FormatError::Malformed)
    }
}

// With a second implementation, the compiler could not infer the type of sent messages.
impl<C: FrameCodec, F: EncodePayload<Out>, In, Out> Encoder<Out> for Typed<C, F, In, Out> {
    type Error = FormatError<C::Error>;

    #[inline]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), Self::Error> {
        let start = dst.len();
        self.frames.begin_frame(dst);
        let encoded = match self.format.encode_payload(&message, dst) {
            Ok(()) => self
                .frames
                .end_frame(dst, start)
                .map_err(FormatError::Frame),
            Err(error) => Err(FormatError::Encode(error)),
        };
        if encoded.is_err() {
            dst.truncate(start);
        }
        encoded
    }
}

impl<C: FrameLimit, F, In, Out> FrameLimit for Typed<C, F, In, Out> {
    fn set_max_frame(&mut self, bytes: usize) {
        self.frames.set_max_frame(bytes);
    }
}

impl<C: Clone, F: Clone, In, Out> Clone for Typed<C, F, In, Out> {
    fn clone(&self) -> Self {
        Self::with_format(self.frames.clone(), self.format.clone())
    }
}

impl<C: Default, F: Default, In, Out> Default for Typed<C, F, In, Out> {
    fn default() -> Self {
        Self::new(C::default())
    }
}

impl<C: fmt::Debug, F: fmt::Debug, In, Out> fmt::Debug for Typed<C, F, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed")
            .field("frames", &self.frames)
            .field("format", &self.format)
            .finish()
    }
}
