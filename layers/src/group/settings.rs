//! What groups and topics do with members that are slow.

use std::{fmt, sync::Arc};

use getty_core::SlowConsumer;

/// Makes the message that tells a member how many it has missed.
pub(super) type Notice<Out> = Arc<dyn Fn(u64) -> Out + Send + Sync>;

pub(super) struct Settings<Out> {
    pub(super) policy: SlowConsumer,
    pub(super) notice: Option<Notice<Out>>,
}

impl<Out> Default for Settings<Out> {
    fn default() -> Self {
        Self {
            policy: SlowConsumer::DropNewest,
            notice: None,
        }
    }
}

impl<Out> Clone for Settings<Out> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy,
            notice: self.notice.clone(),
        }
    }
}

impl<Out> fmt::Debug for Settings<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("policy", &self.policy)
            .field("notice", &self.notice.is_some())
            .finish()
    }
}
