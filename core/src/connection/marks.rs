//! When what last happened: one writer, the driver, and any number of readers.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::session::driver::Moment;

/// A moment, or none.
#[derive(Debug)]
pub(crate) struct Mark(AtomicU64);

impl Mark {
    const NONE: u64 = u64::MAX;

    pub(crate) const fn none() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    pub(crate) const fn at_open() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn set(&self, now: Moment) {
        self.0.store(now.0, Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.0.store(Self::NONE, Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Relaxed))
    }

    #[inline]
    pub(crate) fn get_if_set(&self) -> Option<Moment> {
        Some(self.get()).filter(|mark| mark.0 != Self::NONE)
    }
}

/// Which messages are activity: all of them, or those of which `ActiveLayer` says so.
///
/// The layer notes what it says here, for a store at the most, as do adapters of the codec; the driver makes a time of it
/// at the end of its turn.
#[derive(Debug, Default)]
pub(crate) struct Activity(AtomicU8);

impl Activity {
    /// Activity was seen since the driver last looked.
    const SEEN: u8 = 1;
    /// A layer says which messages are activity; until then every message is.
    const SAID: u8 = 2;

    /// A layer says whether a message is activity; from here on only layers do.
    #[inline]
    #[doc(hidden)]
    pub(crate) fn say(&self, active: bool) {
        let now = self.0.load(Relaxed);
        if active {
            if now != Self::SAID | Self::SEEN {
                self.0.store(Self::SAID | Self::SEEN, Relaxed);
            }
        } else if now & Self::SAID == 0 {
            self.0.store(now | Self::SAID, Relaxed);
        }
    }

    /// An adapter of the codec has kept a message to itself that is one of the application's.
    pub(crate) fn intercepted(&self) {
        let now = self.0.load(Relaxed);
        if now & Self::SAID == 0 {
            self.0.store(now | Self::SEEN, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_every_message(&self) -> bool {
        self.0.load(Relaxed) & Self::SAID == 0
    }

    /// Whether activity was seen that has not been taken.
    #[inline]
    pub(crate) fn is_seen(&self) -> bool {
        self.0.load(Relaxed) & Self::SEEN != 0
    }

    /// Whether activity was seen since the last time.
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
pub(crate) struct Marks {
    pub(crate) read: Mark,
    pub(crate) write: Mark,
    pub(crate) active: Mark,
    /// When reading last began or went on; none while it is paused.
    pub(crate) resumed: Mark,
    /// Since when a frame is incomplete.
    pub(crate) incomplete: Mark,
    /// When the transport began to take nothing although something waits.
    pub(crate) stalled: Mark,
    /// When the session opened.
    pub(crate) open: Mark,
    /// When a handler in flight last finished.
    pub(crate) answered: Mark,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            read: Mark::at_open(),
            write: Mark::at_open(),
            active: Mark::at_open(),
            resumed: Mark::none(),
            incomplete: Mark::none(),
            stalled: Mark::none(),
            open: Mark::none(),
            answered: Mark::at_open(),
        }
    }
}
