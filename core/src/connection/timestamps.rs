//! Last-activity timestamps, written by the driver and readable from any thread.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Nanoseconds since the connection was opened. [`Driver::timestamp`] creates one for each
/// poll.
///
/// [`Driver::timestamp`]: crate::driver::Driver::timestamp
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub(crate) u64);

/// A timestamp, or none. It has one writer and any number of readers.
#[derive(Debug)]
pub(crate) struct AtomicTimestamp(AtomicU64);

impl AtomicTimestamp {
    const NONE: u64 = u64::MAX;

    pub(crate) const fn none() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    pub(crate) const fn at_open() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.0, Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.0.store(Self::NONE, Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> Timestamp {
        Timestamp(self.0.load(Relaxed))
    }

    #[inline]
    pub(crate) fn get_if_set(&self) -> Option<Timestamp> {
        Some(self.get()).filter(|timestamp| timestamp.0 != Self::NONE)
    }
}

/// Flags that record whether messages count as activity: every message, or those that
/// `ActivityLayer` selects.
///
/// The layer and adapters of the codec set flags, at the cost of at most one store. The driver
/// turns them into a timestamp at the end of its poll.
#[derive(Debug, Default)]
pub(crate) struct Activity(AtomicU8);

impl Activity {
    /// Activity was seen since the driver last took the flags.
    const SEEN: u8 = 1;
    /// A layer selects the messages that are activity. Without this flag every message is.
    const CHOSEN_BY_LAYER: u8 = 2;

    /// Records whether a message is activity, as selected by a layer. Messages no longer count by
    /// themselves after the first call.
    #[inline]
    pub(crate) fn set_active(&self, active: bool) {
        let now = self.0.load(Relaxed);
        if active {
            if now != Self::CHOSEN_BY_LAYER | Self::SEEN {
                self.0.store(Self::CHOSEN_BY_LAYER | Self::SEEN, Relaxed);
            }
        } else if now & Self::CHOSEN_BY_LAYER == 0 {
            self.0.store(now | Self::CHOSEN_BY_LAYER, Relaxed);
        }
    }

    /// Records a message of the application that an adapter of the codec consumed.
    pub(crate) fn intercepted(&self) {
        let now = self.0.load(Relaxed);
        if now & Self::CHOSEN_BY_LAYER == 0 {
            self.0.store(now | Self::SEEN, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_every_message(&self) -> bool {
        self.0.load(Relaxed) & Self::CHOSEN_BY_LAYER == 0
    }

    /// Returns `true` if activity was seen and not taken.
    #[inline]
    pub(crate) fn is_seen(&self) -> bool {
        self.0.load(Relaxed) & Self::SEEN != 0
    }

    /// Clears the seen activity. Returns `true` if there was any since the last call.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        let now = self.0.load(Relaxed);
        let seen = now & Self::SEEN != 0;
        if seen {
            self.0.store(now & !Self::SEEN, Relaxed);
        }
        seen
    }
}

#[derive(Debug)]
pub(crate) struct Timestamps {
    pub(crate) read: AtomicTimestamp,
    pub(crate) write: AtomicTimestamp,
    pub(crate) active: AtomicTimestamp,
    /// Time at which reading last started or resumed, or none while it is paused.
    pub(crate) resumed: AtomicTimestamp,
    /// Time at which the incomplete frame began, or none.
    pub(crate) incomplete: AtomicTimestamp,
    /// Time at which the transport stopped taking bytes while some wait, or none.
    pub(crate) stalled: AtomicTimestamp,
    /// Time at which the session opened.
    pub(crate) open: AtomicTimestamp,
    /// Time at which a handler in flight last finished.
    pub(crate) handled: AtomicTimestamp,
}

impl Default for Timestamps {
    fn default() -> Self {
        Self {
            read: AtomicTimestamp::at_open(),
            write: AtomicTimestamp::at_open(),
            active: AtomicTimestamp::at_open(),
            resumed: AtomicTimestamp::none(),
            incomplete: AtomicTimestamp::none(),
            stalled: AtomicTimestamp::none(),
            open: AtomicTimestamp::none(),
            handled: AtomicTimestamp::at_open(),
        }
    }
}
