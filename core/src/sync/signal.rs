//! How anybody wakes the driver of a session.

use std::task::{Context, Waker};

use crate::sync::{AtomicU8, Mutex, Ordering};

/// Flags that anybody may raise, and the waker of the one driver that takes them.
///
/// The waker stays registered when it is used, so that a driver which sleeps and wakes in the same task never locks:
/// it compares its own copy of the waker and loads the flags.
#[derive(Debug)]
pub struct Signal {
    flags: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// There are messages in the outbox.
    pub const MESSAGES: u8 = 1;
    /// A close was requested.
    pub const CLOSE: u8 = 2;
    /// A layer asks something of the driver.
    pub const WISHES: u8 = 4;
    /// The transport's own ping was asked for.
    pub const PING: u8 = 8;
    /// Some of the messages in the outbox were queued by a handler of the same session.
    pub const OWN: u8 = 16;

    #[doc(hidden)]
    pub fn new() -> Self {
        Self {
            flags: AtomicU8::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Raises `flag` and wakes the driver, unless an earlier flag has woken it and it has yet to look.
    #[doc(hidden)]
    pub fn raise(&self, flag: u8) {
        if self.flags.fetch_or(flag, Ordering::AcqRel) == 0 {
            // woken outside of the lock: it is another's code and may come back to us
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

    /// Whether a flag was raised since the last [`take`](Self::take).
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.flags.load(Ordering::Acquire) != 0
    }

    /// The driver is gone: nobody is woken any more.
    pub(crate) fn forget(&self) {
        let old = self.waker.lock().take();
        drop(old);
    }

    /// The flags raised since the last time.
    #[inline]
    #[doc(hidden)]
    pub fn take(&self) -> u8 {
        // a load is cheaper than a swap, and nothing is raised as a rule
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

    /// A driver that sleeps unless it has seen all flags never sleeps for ever, and sees what was done before each.
    #[test]
    fn a_raised_flag_is_never_slept_through() {
        const ALL: u8 = Signal::MESSAGES | Signal::CLOSE;

        let mut model = loom::model::Builder::new();
        // with two threads beside the driver all orders take minutes; three preemptions find what there is to find
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
