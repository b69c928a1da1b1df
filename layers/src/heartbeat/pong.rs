//! Pongs, which the codec keeps to itself.

use std::{any::type_name, fmt};

use getty_core::{ConnectionHandle, internal::Contained};

use crate::tap::Keep;

/// Takes the pongs out of what is decoded; made by [`HeartbeatLayer::with_pong`](super::HeartbeatLayer::with_pong).
pub struct WithoutPongs<M> {
    is_pong: Contained<M>,
    handle: ConnectionHandle,
}

impl<M> WithoutPongs<M> {
    pub(super) const fn new(is_pong: Contained<M>, handle: ConnectionHandle) -> Self {
        Self { is_pong, handle }
    }
}

impl<In, M: Fn(&In) -> bool> Keep<In> for WithoutPongs<M> {
    #[inline]
    fn keep(&mut self, message: In) -> Option<In> {
        if (self.is_pong)(&message) {
            self.handle.intercepted();
            return None;
        }
        Some(message)
    }
}

impl<M> fmt::Debug for WithoutPongs<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithoutPongs")
            .field("is_pong", &type_name::<M>())
            .finish_non_exhaustive()
    }
}
