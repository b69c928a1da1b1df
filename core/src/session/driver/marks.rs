//! What a driver tells of its connection: counters, and marks of when something was last seen.

use tokio::time::Instant;

use super::Driver;

/// A time as the activity marks of one session keep it: made once a turn, by [`Driver::moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(crate) u64);

impl<Out> Driver<Out> {
    /// `now`, for the marks of activity.
    #[inline]
    pub fn moment(&self, now: Instant) -> Moment {
        self.handle.moment(now)
    }

    /// So many encoded bytes wait for the transport; to be told at the end of a turn.
    #[inline]
    pub fn pending(&self, bytes: usize) {
        self.handle.set_pending(bytes);
    }

    /// So many bytes were received.
    #[inline]
    pub fn received(&self, bytes: usize, now: Moment) {
        let handle = &self.handle;
        handle.counters().bytes_in.add(bytes as u64);
        handle.marks().read.set(now);
    }

    /// The transport took so many bytes.
    #[inline]
    pub fn sent(&self, bytes: u64, now: Moment) {
        let handle = &self.handle;
        handle.counters().bytes_out.add(bytes);
        handle.marks().write.set(now);
    }

    /// So many messages were decoded. That is activity, unless a layer [says](Self::take_activity) which messages are.
    #[inline]
    pub fn messages_in(&self, messages: u64, now: Moment) {
        let handle = &self.handle;
        handle.counters().messages_in.add(messages);
        if handle.activity().is_every_message() {
            handle.marks().active.set(now);
        }
    }

    /// Whether `ActiveLayer` has seen a message that is activity since the last time. To be asked
    /// after the handlers were called, and followed by [`active`](Self::active).
    #[inline]
    pub fn take_activity(&self) -> bool {
        self.handle.activity().take()
    }

    /// The application is active.
    #[inline]
    pub fn active(&self, now: Moment) {
        self.handle.marks().active.set(now);
    }

    /// So many messages are with their handlers now. `true` if they are fewer than before: then
    /// [`answered`](Self::answered) is to be told.
    #[inline]
    pub fn in_flight(&self, messages: usize) -> bool {
        let before = self.handle.in_flight();
        if before != messages {
            self.handle.set_in_flight(messages);
        }
        before > messages
    }

    /// A handler in flight has finished.
    pub fn answered(&self, now: Moment) {
        self.handle.marks().answered.set(now);
    }

    /// So many messages were encoded.
    #[inline]
    pub fn messages_out(&self, messages: u64) {
        self.handle.counters().messages_out.add(messages);
    }

    /// A message was skipped.
    pub fn skipped(&self) {
        self.handle.count_skipped(1);
    }

    /// The transport lost so many messages before they could be read; they count as skipped.
    pub fn lost(&self, messages: u64) {
        self.handle.count_skipped(messages);
    }

    /// The transport is read, or is not for now; to be called when that changes.
    #[cold]
    pub fn reading(&self, reads: bool, now: Moment) {
        let resumed = &self.handle.marks().resumed;
        if reads {
            resumed.set(now);
        } else {
            resumed.clear();
        }
    }

    /// Whether the handle says that the transport is read.
    #[inline]
    pub fn is_reading(&self) -> bool {
        self.handle.marks().resumed.get_if_set().is_some()
    }

    /// A frame is incomplete since `since`, or none is any more; to be called when that changes.
    #[inline]
    pub fn incomplete(&self, since: Option<Moment>) {
        let incomplete = &self.handle.marks().incomplete;
        match since {
            Some(since) => incomplete.set(since),
            None => incomplete.clear(),
        }
    }

    /// Whether the handle says that a frame is incomplete: an adapter of the codec may have completed it unseen.
    #[inline]
    pub fn is_incomplete(&self) -> bool {
        self.handle.marks().incomplete.get_if_set().is_some()
    }

    /// The transport takes nothing since `since` although something waits, or nothing waits any more; to be called when
    /// that changes.
    #[cold]
    pub fn stalled(&self, since: Option<Moment>) {
        let stalled = &self.handle.marks().stalled;
        match since {
            Some(since) => stalled.set(since),
            None => stalled.clear(),
        }
    }

    /// Whether the handle says that the transport takes nothing.
    #[inline]
    pub fn is_stalled(&self) -> bool {
        self.handle.marks().stalled.get_if_set().is_some()
    }

    /// The transport has a ping of its own.
    pub fn has_ping(&self) {
        self.handle.mark_has_ping();
    }

    /// The peer has ended its direction.
    pub fn peer_finished(&self) {
        self.handle.mark_peer_finished();
    }
}
