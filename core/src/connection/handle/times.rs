//! Times of traffic and activity, as instants. [`HandleExt`](super::HandleExt) has more.

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
