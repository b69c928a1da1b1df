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
/// The layer notes what it says here, for a store at the most; the driver makes a time of it at the end of its turn.
#[derive(Debug, Default)]
pub(crate) struct Activity(AtomicU8);

impl Activity {
    /// Nobody has said anything: every message is activity.
    const EVERY_MESSAGE: u8 = 0;
    /// A layer says, and has seen no activity since the driver last looked.
    const NONE: u8 = 1;
    /// A layer has seen activity.
    const SOME: u8 = 2;

    /// A layer says whether a message is activity; from here on only layers do.
    #[inline]
    pub(crate) fn say(&self, active: bool) {
        let now = self.0.load(Relaxed);
        if active {
            if now != Self::SOME {
                self.0.store(Self::SOME, Relaxed);
            }
        } else if now == Self::EVERY_MESSAGE {
            self.0.store(Self::NONE, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_every_message(&self) -> bool {
        self.0.load(Relaxed) == Self::EVERY_MESSAGE
    }

    /// Whether a layer has seen activity since the last time.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        let seen = self.0.load(Relaxed) == Self::SOME;
        if seen {
            self.0.store(Self::NONE, Relaxed);
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
