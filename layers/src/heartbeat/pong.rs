//! A codec's adapter that keeps pongs to itself.

use std::{any::type_name, fmt};

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::ConnectionHandle;

/// A codec without the messages that are pongs; made by [`HeartbeatLayer::with_pong`](super::HeartbeatLayer::with_pong).
pub struct WithoutPongs<C, M> {
    codec: C,
    is_pong: M,
    handle: ConnectionHandle,
}

impl<C, M> WithoutPongs<C, M> {
    pub(super) const fn new(codec: C, is_pong: M, handle: ConnectionHandle) -> Self {
        Self {
            codec,
            is_pong,
            handle,
        }
    }

    /// The codec itself.
    pub const fn get_ref(&self) -> &C {
        &self.codec
    }
}

impl<C: Decoder, M: Fn(&C::Item) -> bool> WithoutPongs<C, M> {
    /// The message, unless it is a pong.
    fn keep(&self, message: C::Item) -> Option<C::Item> {
        if (self.is_pong)(&message) {
            self.handle.intercepted();
            return None;
        }
        Some(message)
    }
}

impl<C: Decoder, M: Fn(&C::Item) -> bool> Decoder for WithoutPongs<C, M> {
    type Item = C::Item;
    type Error = C::Error;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode(src)? {
            if let Some(message) = self.keep(message) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        while let Some(message) = self.codec.decode_eof(src)? {
            if let Some(message) = self.keep(message) {
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

impl<C: Encoder<Out>, M, Out> Encoder<Out> for WithoutPongs<C, M> {
    type Error = C::Error;

    #[inline]
    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.codec.encode(message, dst)
    }
}

impl<C: fmt::Debug, M> fmt::Debug for WithoutPongs<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithoutPongs")
            .field("codec", &self.codec)
            .field("is_pong", &type_name::<M>())
            .finish_non_exhaustive()
    }
}
