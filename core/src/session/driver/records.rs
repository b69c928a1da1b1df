//! Counters and timestamps that the session loop records.

use tokio::time::Instant;

use super::Driver;
use crate::connection::Timestamp;

impl<Out> Driver<Out> {
    /// Converts `now` into a timestamp.
    #[inline]
    #[doc(hidden)]
    pub fn timestamp(&self, now: Instant) -> Timestamp {
        self.handle.timestamp(now)
    }

    /// Sets the number of encoded bytes that wait for the transport. Must be called at the end of
    /// a poll.
    #[inline]
    #[doc(hidden)]
    pub fn set_pending_bytes(&self, bytes: usize) {
        self.handle.set_pending(bytes);
    }

    /// Records received bytes.
    #[inline]
    #[doc(hidden)]
    pub fn record_received(&self, bytes: usize, now: Timestamp) {
        let handle = &self.handle;
        handle.counters().bytes_in.add(bytes as u64);
        handle.timestamps().read.set(now);
    }

    /// Records bytes that the transport took.
    #[inline]
    #[doc(hidden)]
    pub fn record_sent(&self, bytes: u64, now: Timestamp) {
        let handle = &self.handle;
        handle.counters().bytes_out.add(bytes);
        handle.timestamps().write.set(now);
    }

    /// Records decoded messages. They are activity unless a layer [selects](Self::take_activity)
    /// the messages that are.
    #[inline]
    #[doc(hidden)]
    pub fn record_messages_in(&self, messages: u64, now: Timestamp) {
        let handle = &self.handle;
        handle.counters().messages_in.add(messages);
        if handle.activity().is_every_message() {
            handle.timestamps().active.set(now);
        }
    }

    /// Takes the activity that `ActivityLayer` has recorded. Returns `true` if there was any since
    /// the last call. Must be called after the handlers were called, and followed by
    /// [`record_active`](Self::record_active).
    #[inline]
    #[doc(hidden)]
    pub fn take_activity(&self) -> bool {
        self.handle.activity().take()
    }

    /// Records that the application is active.
    #[inline]
    #[doc(hidden)]
    pub fn record_active(&self, now: Timestamp) {
        self.handle.timestamps().active.set(now);
    }

    /// Sets the number of messages whose handlers are in flight. Returns `true` if there are fewer
    /// than before: the caller must then call [`record_handled`](Self::record_handled).
    #[inline]
    #[doc(hidden)]
    pub fn set_in_flight(&self, messages: usize) -> bool {
        let before = self.handle.in_flight();
        if before != messages {
            self.handle.set_in_flight(messages);
        }
        before > messages
    }

    /// Records that a handler in flight has finished.
    #[doc(hidden)]
    pub fn record_handled(&self, now: Timestamp) {
        self.handle.timestamps().handled.set(now);
    }

    /// Records encoded messages.
    #[inline]
    #[doc(hidden)]
    pub fn record_messages_out(&self, messages: u64) {
        self.handle.counters().messages_out.add(messages);
    }

    /// Records a skipped message.
    #[doc(hidden)]
    pub fn record_skipped(&self) {
        self.handle.count_skipped(1);
    }

    /// Records messages that the transport lost before they could be read. They count as skipped.
    #[doc(hidden)]
    pub fn record_lost(&self, messages: u64) {
        self.handle.count_skipped(messages);
    }

    /// Sets whether the transport is read. Must be called when that changes.
    #[cold]
    #[doc(hidden)]
    pub fn set_reading(&self, reads: bool, now: Timestamp) {
        let resumed = &self.handle.timestamps().resumed;
        if reads {
            resumed.set(now);
        } else {
            resumed.clear();
        }
    }

    /// Returns `true` if the handle records that the transport is read.
    #[inline]
    #[doc(hidden)]
    pub fn is_reading(&self) -> bool {
        self.handle.timestamps().resumed.get_if_set().is_some()
    }

    /// Sets the time since which a frame is incomplete, or `None`. Must be called when that
    /// changes.
    #[inline]
    #[doc(hidden)]
    pub fn set_incomplete(&self, since: Option<Timestamp>) {
        let incomplete = &self.handle.timestamps().incomplete;
        match since {
            Some(since) => incomplete.set(since),
            None => incomplete.clear(),
        }
    }

    /// Returns `true` if the handle records an incomplete frame. An adapter of the codec may have
    /// completed it meanwhile.
    #[inline]
    #[doc(hidden)]
    pub fn is_incomplete(&self) -> bool {
        self.handle.timestamps().incomplete.get_if_set().is_some()
    }

    /// Sets the time since which the transport takes no byte while some wait, or `None`. Must be
    /// called when that changes.
    #[cold]
    #[doc(hidden)]
    pub fn set_stalled(&self, since: Option<Timestamp>) {
        let stalled = &self.handle.timestamps().stalled;
        match since {
            Some(since) => stalled.set(since),
            None => stalled.clear(),
        }
    }

    /// Returns `true` if the handle records that the transport takes no byte.
    #[inline]
    #[doc(hidden)]
    pub fn is_stalled(&self) -> bool {
        self.handle.timestamps().stalled.get_if_set().is_some()
    }

    /// Records that the transport has its own ping.
    #[doc(hidden)]
    pub fn set_has_ping(&self) {
        self.handle.mark_has_ping();
    }

    /// Records that the transport was upgraded.
    #[doc(hidden)]
    pub fn record_upgraded(&self) {
        self.handle.mark_upgraded();
    }

    /// Records that the peer has ended its direction.
    #[doc(hidden)]
    pub fn record_peer_finished(&self) {
        self.handle.mark_peer_finished();
    }
}
