//! Outbound state: pending bytes, backpressure, half-close.

use std::sync::atomic::Ordering::Relaxed;

use super::{BACKPRESSURED, CLOSED, CLOSING, ConnectionHandle, FINISHED};
use crate::sync::{Ordering, Signal};

impl ConnectionHandle {
    /// Returns `true` while senders wait because the peer reads too slowly.
    ///
    /// Either pushed bytes have exceeded the high watermark and not yet fallen to the low one, or
    /// bytes of replies exceed the low watermark or the memory budget is used up. Except in the
    /// last case, messages are still decoded and handled.
    #[must_use]
    #[doc(alias("throttle", "slow_consumer"))]
    pub fn is_backpressured(&self) -> bool {
        self.has(BACKPRESSURED)
    }

    /// Returns the number of encoded bytes that wait for the transport, as of the driver's last
    /// poll.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.0.pending.load(Relaxed)
    }

    /// Returns `true` if this side has ended its direction before the session's end, by
    /// [`finish`](crate::Session::finish).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.has(FINISHED)
    }

    /// Returns `true` if the transport has its own ping, as WebSocket does. Known once the session
    /// loop has taken the connection.
    #[must_use]
    pub fn has_ping(&self) -> bool {
        self.0.locked.lock().has_ping
    }

    /// Sends the transport's own ping such as WebSocket's. Has no effect on transports without
    /// one.
    #[doc(alias("keepalive", "keep_alive"))]
    pub fn ping(&self) {
        self.0.signal.raise(Signal::PING);
    }

    pub(crate) fn mark_has_ping(&self) {
        self.0.locked.lock().has_ping = true;
    }

    /// Resolves when this side has ended its direction, or when the session closes before that.
    /// Returns `true` if the direction has ended.
    pub(crate) async fn finished(&self) -> bool {
        self.wait_for(FINISHED | CLOSING | CLOSED).await;
        self.has(FINISHED)
    }

    #[cold]
    pub(crate) fn mark_backpressured(&self, backpressured: bool) {
        if backpressured {
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
        // usually nothing waits, and a load keeps the cache line shared with readers
        if self.0.pending.load(Relaxed) != bytes {
            self.0.pending.store(bytes, Relaxed);
        }
    }
}
