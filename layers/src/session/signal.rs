//! How anybody wakes the driver of a session.

use std::task::{Context, Waker};

use crate::sync::{AtomicU8, Mutex, Ordering};

/// Flags that anybody may raise, and the waker of the one driver that takes them.
///
/// The waker stays registered when it is used, so that a driver which sleeps and wakes in the same task never locks:
/// it compares its own copy of the waker and loads the flags.
#[derive(Debug)]
pub(crate) struct Signal {
    flags: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// There are messages in the outbox.
    pub(crate) const MESSAGES: u8 = 1;
    /// A close was requested.
    pub(crate) const CLOSE: u8 = 2;

    pub(crate) fn new() -> Self {
        Self {
            flags: AtomicU8::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Raises `flag` and wakes the driver, unless an earlier flag has woken it and it has yet to look.
    pub(crate) fn raise(&self, flag: u8) {
        if self.flags.fetch_or(flag, Ordering::AcqRel) == 0 {
            // cloned, because a waker is another's code and may come back to us
            let waker = self.waker.lock().clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Has `cx` woken by what is raised from here on; to be called before [`take`](Self::take).
    ///
    /// `known` is the driver's copy of the waker that is registered.
    #[inline]
    pub(crate) fn register(&self, known: &mut Option<Waker>, cx: &Context<'_>) {
        if known
            .as_ref()
            .is_none_or(|known| !known.will_wake(cx.waker()))
        {
            let waker = cx.waker().clone();
            let old = self.waker.lock().replace(waker.clone());
            *known = Some(waker);
            drop(old);
        }
    }

    /// Whether a flag was raised since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.flags.load(Ordering::Acquire) != 0
    }

    /// The flags raised since the last time.
    #[inline]
    pub(crate) fn take(&self) -> u8 {
        // a load is cheaper than a swap, and nothing is raised as a rule
        if !self.is_raised() {
            return 0;
        }
        self.flags.swap(0, Ordering::AcqRel)
    }
}
