//! Outbound state: pending bytes, backpressure, half-close.

use std::sync::atomic::Ordering::Relaxed;

use super::{BACKPRESSURED, CLOSED, CLOSING, ConnectionHandle, FINISHED};
use crate::sync::Ordering;

impl ConnectionHandle {
    /// Returns `true` while senders wait because the peer reads too slowly. Pushed bytes have
    /// exceeded the high watermark and not yet fallen to the low one, or bytes of replies exceed
    /// the low watermark, or the memory budget is used up. Except in the last case messages are
    /// still decoded and handled.
    #[must_use]
    pub fn is_backpressured(&self) -> bool {
        self.has(BACKPRESSURED)
    }

    /// How many encoded bytes wait for the transport, as of the driver's last turn.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.0.pending.load(Relaxed)
    }

    /// Whether our direction has ended before the session's, by [`finish`](crate::Session::finish).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.has(FINISHED)
    }

    /// Resolves when our direction has ended; `false` when the session closes before that.
    pub(crate) async fn finished(&self) -> bool {
        self.until(FINISHED | CLOSING | CLOSED).await;
        self.has(FINISHED)
    }

    #[cold]
    pub(crate) fn mark_backpressured(&self, pressed: bool) {
        if pressed {
            self.0.state.fetch_or(BACKPRESSURED, Ordering::AcqRel);
        } else {
            self.0.state.fetch_and(!BACKPRESSURED, Ordering::AcqRel);
        }
    }

    pub(crate) fn mark_finished(&self) {
        self.set(FINISHED);
    }

    #[inline]
    pub(crate) fn set_pending(&self, bytes: usize) {
        // as a rule nothing waits, and a load leaves the cache line to those who read it
        if self.0.pending.load(Relaxed) != bytes {
            self.0.pending.store(bytes, Relaxed);
        }
    }
}
