//! Timestamps of the session loop, as instants.

use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionHandle;
use crate::connection::Timestamp;

impl ConnectionHandle {
    /// Returns the time at which bytes were last received, or [`opened_at`](Self::opened_at)
    /// before the first.
    #[must_use]
    pub fn last_read(&self) -> Instant {
        self.instant(self.0.timestamps.read.get())
    }

    /// Returns the time at which the transport last took bytes, or [`opened_at`](Self::opened_at)
    /// before the first.
    #[must_use]
    pub fn last_write(&self) -> Instant {
        self.instant(self.0.timestamps.write.get())
    }

    /// Returns the time at which the application was last active: a message was received, or
    /// [`touch`](Self::touch) was called. `ActivityLayer` can select the messages that count. By
    /// default every message does.
    #[must_use]
    pub fn last_active(&self) -> Instant {
        self.instant(self.0.timestamps.active.get())
    }

    /// Returns the time at which a handler last finished that had been in flight for more than one
    /// poll of the session loop, or [`opened_at`](Self::opened_at) before the first.
    ///
    /// While a handler is in flight, a peer that waits for its reply is not idle: see
    /// [`in_flight`](Self::in_flight).
    #[must_use]
    pub fn last_handled(&self) -> Instant {
        self.instant(self.0.timestamps.handled.get())
    }

    /// Returns the time at which reading started or resumed, or `None` while the session does not
    /// read.
    ///
    /// The session does not read before it opens, after the peer has ended its direction, and
    /// while handlers, a limit or a slow peer prevent it and the read-ahead limit is reached. The
    /// peer's silence then means nothing, and no receive deadline runs (design.md: Why do receive
    /// deadlines pause while the session does not read?).
    #[must_use]
    pub fn reading_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .resumed
            .get_if_set()
            .map(|resumed| self.instant(resumed))
    }

    /// Returns the time since which the peer is silent, or `None` while the session does not read.
    /// It is the later of the last received byte and [the start of reading](Self::reading_since).
    #[must_use]
    pub fn silent_since(&self) -> Option<Instant> {
        let resumed = self.0.timestamps.resumed.get_if_set()?;
        Some(self.instant(resumed.max(self.0.timestamps.read.get())))
    }

    /// Returns the time since which the transport takes no byte while some wait, or `None` if it
    /// takes bytes or none wait. A stall means that the peer does not read.
    #[must_use]
    pub fn stalled_since(&self) -> Option<Instant> {
        let stalled = self.0.timestamps.stalled.get_if_set()?;
        Some(self.instant(stalled.max(self.0.timestamps.write.get())))
    }

    /// Returns the time since which a frame of the peer is incomplete, or `None` if there is no
    /// such frame.
    #[must_use]
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .incomplete
            .get_if_set()
            .map(|timestamp| self.instant(timestamp))
    }

    /// Returns the time at which the session opened, or `None` before. A session opens once the
    /// session loop has taken the connection and no [guard](super::HandleExt::delay_open) delays
    /// it.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .open
            .get_if_set()
            .map(|timestamp| self.instant(timestamp))
    }

    /// Marks the application as active now.
    pub fn touch(&self) {
        self.0.timestamps.active.set(self.timestamp(Instant::now()));
    }

    pub(in crate::connection) fn instant(&self, timestamp: Timestamp) -> Instant {
        self.0.opened_at + Duration::from_nanos(timestamp.0)
    }

    /// Converts an instant into nanoseconds since the connection was opened. They suffice for 584
    /// years.
    #[inline]
    pub(crate) fn timestamp(&self, now: Instant) -> Timestamp {
        let since = now.saturating_duration_since(self.0.opened_at);
        Timestamp(since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos()))
    }
}
