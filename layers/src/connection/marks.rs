//! When what last happened: one writer, the driver, and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Relaxed))
    }

    pub(crate) fn get_if_set(&self) -> Option<Moment> {
        Some(self.get()).filter(|mark| mark.0 != Self::NONE)
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
        }
    }
}
