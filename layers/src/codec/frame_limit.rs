//! Codecs whose maximum frame can be changed while their session is open.

use std::{any::type_name, fmt};

use bytes::BytesMut;
use getty_core::{
    ConnectionHandle,
    hooks::{Contained, HandleExt, Setting},
};
use tokio_util::codec::{Decoder, Encoder};

use super::CodecSource;

/// Codecs with a maximum frame that can be set. All codecs of getty implement it, and codecs of
/// typed messages in their frames.
///
/// [`CodecLayer::with_settable_max_frame`](super::CodecLayer::with_settable_max_frame) uses it.
pub trait FrameLimit {
    /// Sets the maximum length of a frame, in bytes. It must be the setting that the codec is
    /// created with.
    fn set_max_frame(&mut self, bytes: usize);
}

/// Source of the codecs of
/// [`CodecLayer::with_frame_limit`](super::CodecLayer::with_frame_limit).
#[derive(Clone)]
pub struct WithFrameLimit<C, F> {
    pub(super) source: C,
    pub(super) set: F,
}

impl<C, F> CodecSource for WithFrameLimit<C, F>
where
    C: CodecSource,
    F: Fn(&mut C::Codec, usize) + Clone,
{
    type Codec = FrameLimited<C::Codec, F>;

    fn codec(&self, handle: &ConnectionHandle) -> Self::Codec {
        handle.add_setting(Setting::MaxFrame);
        FrameLimited {
            codec: self.source.codec(handle),
            set: Contained::new(self.set.clone()),
            handle: handle.clone(),
        }
    }
}

impl<C: fmt::Debug, F> fmt::Debug for WithFrameLimit<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithFrameLimit")
            .field("source", &self.source)
            .field("set", &type_name::<F>())
            .finish()
    }
}

/// Codec of a session whose maximum frame can be changed. Created by
/// [`CodecLayer::with_frame_limit`](super::CodecLayer::with_frame_limit).
pub struct FrameLimited<C, F> {
    codec: C,
    set: Contained<F>,
    handle: ConnectionHandle,
}

impl<C, F> FrameLimited<C, F> {
    /// Returns a reference to the inner codec.
    pub const fn get_ref(&self) -> &C {
        &self.codec
    }
}

impl<C, F: Fn(&mut C, usize)> FrameLimited<C, F> {
    /// Sets the maximum that the session was given. Returns `false` if there is none.
    #[cold]
    fn apply(&mut self) -> bool {
        let max = self.handle.take_max_frame();
        if let Some(bytes) = max {
            (self.set)(&mut self.codec, bytes);
        }
        max.is_some()
    }
}

impl<C: Decoder, F: Fn(&mut C, usize)> Decoder for FrameLimited<C, F> {
    type Item = C::Item;
    type Error = C::Error;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        self.codec.decode(src)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        // The session loop requests a change by this call (`SessionIo::apply_max_frame`).
        if src.is_empty() && self.apply() {
            return Ok(None);
        }
        self.codec.decode_eof(src)
    }
}

impl<C: Encoder<Out>, F, Out> Encoder<Out> for FrameLimited<C, F> {
    type Error = C::Error;

    #[inline(always)]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.codec.encode(message, dst)
    }
}

impl<C: fmt::Debug, F> fmt::Debug for FrameLimited<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameLimited")
            .field("codec", &self.codec)
            .field("set", &type_name::<F>())
            .finish()
    }
}
