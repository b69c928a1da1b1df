//! A topic with a subscription, which receives messages of other nodes.

use std::{
    collections::VecDeque,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Weak, atomic::AtomicU64},
};

use super::{Shared, seen::Seen};
use crate::{
    Key,
    dispatch::{Message, Receive, Waiting},
};

/// A topic with a subscription.
pub(super) struct Topic<K: Key, Out> {
    pub(super) key: K,
    /// Bytes of the key.
    pub(super) bytes: ShortBytes,
    /// Number of the batch that subscribes to it.
    pub(super) batch: u64,
    /// Number of its place among the lingering topics, or 0 while it has members.
    pub(super) lingering: AtomicU64,
    shared: Weak<Shared<K, Out>>,
    pub(super) waiting: Waiting,
}

/// Bytes of which a few need no allocation.
pub(super) enum ShortBytes {
    Short(u8, [u8; 22]),
    Long(Box<[u8]>),
}

impl ShortBytes {
    fn new(bytes: &[u8]) -> Self {
        let mut short = [0; 22];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(bytes);
                Self::Short(len, short)
            }
            _ => Self::Long(bytes.into()),
        }
    }
}

impl Deref for ShortBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl<K: Key, Out> Topic<K, Out> {
    pub(super) fn new(key: K, bytes: &[u8], shared: Weak<Shared<K, Out>>, batch: u64) -> Self {
        Self {
            key,
            bytes: ShortBytes::new(bytes),
            batch,
            lingering: AtomicU64::new(0),
            shared,
            waiting: Waiting::default(),
        }
    }
}

impl<K: Key, Out: Clone + Send + Sync + 'static> Receive for Topic<K, Out> {
    fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    fn receive(&self, messages: &mut VecDeque<Message>, seen: &mut Seen) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let counters = &shared.counters;
        let mut received = 0;
        for Message { header, payload } in messages.drain(..) {
            let Some(missed) = seen.check(&header, &shared.inner.nodes) else {
                counters.duplicates.add(1);
                continue;
            };
            // Forms and notices are code of the application. A panic must not end the dispatcher.
            let receive = || shared.receive(&self.key, header.origin, missed, payload);
            match catch_unwind(AssertUnwindSafe(receive)) {
                Ok(is_read) => received += u64::from(is_read),
                Err(_) => {
                    counters.invalid.add(1);
                    tracing::error!(target: "getty::cluster", "a form or a notice has panicked");
                }
            }
        }
        if received > 0 {
            counters.received.add(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_whether_they_are_short_or_long() {
        for len in [0, 1, 22, 23, 300] {
            let bytes: Vec<_> = (0..=255).cycle().take(len).collect();
            let kept = ShortBytes::new(&bytes);
            assert_eq!(*kept, *bytes);
            assert_eq!(matches!(kept, ShortBytes::Long(_)), len > 22);
        }
        assert_eq!(size_of::<ShortBytes>(), 24);
    }
}
