//! Wake-up of the one task that waits for events of other threads, such as a session's driver.

use std::task::{Context, Waker};

use crate::sync::{AtomicU8, Mutex, Ordering};

/// Flags that any thread may raise, and the waker of the one task that takes them.
///
/// The waker stays registered when it is used. A future that is polled again by the same task
/// therefore never locks: it compares its copy of the waker and loads the flags (design.md:
/// Why is there a signal beside the outbox?).
///
/// The constants are the flags of a session's driver. Other users of a signal define theirs.
#[derive(Debug)]
pub struct Signal {
    flags: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// The outbox has messages.
    pub const MESSAGES: u8 = 1;
    /// A close was requested.
    pub const CLOSE: u8 = 2;
    /// A layer has registered a hook.
    pub const LAYER_HOOKS: u8 = 4;
    /// The transport's own ping was requested.
    pub const PING: u8 = 8;
    /// A handler of this session queued some of the messages in the outbox.
    pub const OWN: u8 = 16;

    #[doc(hidden)]
    pub fn new() -> Self {
        Self {
            flags: AtomicU8::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Raises `flag`. Wakes the task unless an earlier flag has woken it and was not taken yet.
    #[doc(hidden)]
    pub fn raise(&self, flag: u8) {
        if self.flags.fetch_or(flag, Ordering::AcqRel) == 0 {
            // woken outside the lock because it is other code and may call back
            let waker = self.waker.lock().clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Registers the waker of `cx`, which is woken by flags raised from now on. Must be called
    /// before [`take`](Self::take).
    ///
    /// `known` is the task's copy of the registered waker.
    #[inline]
    #[doc(hidden)]
    pub fn register(&self, known: &mut Option<Waker>, cx: &Context<'_>) {
        if known
            .as_ref()
            .is_none_or(|known| !known.will_wake(cx.waker()))
        {
            self.replace(known, cx.waker());
        }
    }

    #[cold]
    fn replace(&self, known: &mut Option<Waker>, waker: &Waker) {
        let waker = waker.clone();
        let old = self.waker.lock().replace(waker.clone());
        *known = Some(waker);
        drop(old);
    }

    /// Returns `true` if a flag was raised since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.flags.load(Ordering::Acquire) != 0
    }

    /// Drops the waker. Called when the driver is dropped.
    pub(crate) fn forget(&self) {
        let old = self.waker.lock().take();
        drop(old);
    }

    /// Takes the flags raised since the last call and returns them.
    #[inline]
    #[doc(hidden)]
    pub fn take(&self) -> u8 {
        // a load is cheaper than a swap, and usually no flag is raised
        if !self.is_raised() {
            return 0;
        }
        self.flags.swap(0, Ordering::AcqRel)
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, task::Poll};

    use loom::{
        future::block_on,
        sync::{Arc, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    /// The driver sleeps unless it has seen both flags. It also sees the work done before each
    /// flag was raised.
    #[test]
    fn raised_flag_wakes_the_driver() {
        const ALL: u8 = Signal::MESSAGES | Signal::CLOSE;

        let mut model = loom::model::Builder::new();
        // with two threads beside the driver, exploring all interleavings takes minutes: three
        // preemptions cover the distinct cases
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((Signal::new(), AtomicUsize::new(0), AtomicUsize::new(0)));
            let raisers = [Signal::MESSAGES, Signal::CLOSE].map(|flag| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (signal, messages, close) = &*shared;
                    let work = if flag == Signal::CLOSE {
                        close
                    } else {
                        messages
                    };
                    work.store(1, Ordering::Relaxed);
                    signal.raise(flag);
                })
            });
            let (signal, messages, close) = &*shared;
            let (mut known, mut seen) = (None, 0);
            block_on(poll_fn(|cx| {
                signal.register(&mut known, cx);
                let flags = signal.take();
                if flags & Signal::MESSAGES != 0 {
                    assert_eq!(messages.load(Ordering::Relaxed), 1);
                }
                if flags & Signal::CLOSE != 0 {
                    assert_eq!(close.load(Ordering::Relaxed), 1);
                }
                seen |= flags;
                if seen == ALL {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }));
            for raiser in raisers {
                raiser.join().unwrap();
            }
            signal.forget();
        });
    }
}
