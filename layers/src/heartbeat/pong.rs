//! Filter that removes pongs from decoded messages.

use std::{any::type_name, fmt};

use getty_core::{
    ConnectionHandle,
    hooks::{Contained, HandleExt},
};

use crate::filter_map::MessageFilter;

/// Filter that removes pongs; see
/// [`HeartbeatLayer::with_pong`](super::HeartbeatLayer::with_pong).
pub struct PongFilter<M> {
    is_pong: Contained<M>,
    handle: ConnectionHandle,
}

impl<M> PongFilter<M> {
    pub(super) const fn new(is_pong: Contained<M>, handle: ConnectionHandle) -> Self {
        Self { is_pong, handle }
    }
}

// The codec removes pongs, so that a session whose handlers are busy still receives them
// (design.md: Why does the codec remove pongs?).
impl<In, M: Fn(&In) -> bool> MessageFilter<In> for PongFilter<M> {
    #[inline]
    fn filter(&mut self, message: In) -> Option<In> {
        if (self.is_pong)(&message) {
            self.handle.record_intercepted();
            return None;
        }
        Some(message)
    }
}

impl<M> fmt::Debug for PongFilter<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PongFilter")
            .field("is_pong", &type_name::<M>())
            .finish_non_exhaustive()
    }
}
