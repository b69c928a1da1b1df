//! When what happened on a connection: the marks that the session loop keeps, as times.

use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionHandle;
use crate::session::driver::Moment;

impl ConnectionHandle {
    /// When bytes were last received; [`opened_at`](Self::opened_at) as long as there were none.
    #[must_use]
    pub fn last_read(&self) -> Instant {
        self.at(self.0.marks.read.get())
    }

    /// When the transport last took bytes; [`opened_at`](Self::opened_at) as long as it took none.
    #[must_use]
    pub fn last_write(&self) -> Instant {
        self.at(self.0.marks.write.get())
    }

    /// When the application was last active: a message was received, or [`touch`](Self::touch) called. Which messages
    /// count `ActiveLayer` may say; all do by default.
    #[must_use]
    pub fn last_active(&self) -> Instant {
        self.at(self.0.marks.active.get())
    }

    /// When a handler last finished that had been in flight for more than a turn of the session loop;
    /// [`opened_at`](Self::opened_at) as long as there was none. While there is one, a peer that waits for its answer is
    /// not idle: see [`in_flight`](Self::in_flight).
    #[must_use]
    pub fn last_answered(&self) -> Instant {
        self.at(self.0.marks.answered.get())
    }

    /// Since when we read: since the session opened, or since reading went on after we had paused it. `None` while we
    /// do not read: before the session opens, while handlers, a limit or a slow peer keep us from it and as much is
    /// read ahead as may be, and after the peer has ended its direction. Silence then says nothing of the peer, and no
    /// receive deadline runs.
    #[must_use]
    pub fn reading_since(&self) -> Option<Instant> {
        self.0
            .marks
            .resumed
            .get_if_set()
            .map(|resumed| self.at(resumed))
    }

    /// Since when the peer is silent: when bytes were last received, or [reading](Self::reading_since) began or went on.
    /// `None` while we do not read.
    #[must_use]
    pub fn silent_since(&self) -> Option<Instant> {
        let resumed = self.0.marks.resumed.get_if_set()?;
        Some(self.at(resumed.max(self.0.marks.read.get())))
    }

    /// Since when the transport takes no byte although some wait, which means that the peer does not read; `None` while
    /// nothing waits.
    #[must_use]
    pub fn stalled_since(&self) -> Option<Instant> {
        let stalled = self.0.marks.stalled.get_if_set()?;
        Some(self.at(stalled.max(self.0.marks.write.get())))
    }

    /// Since when a frame of the peer's is incomplete; `None` while there is no such frame.
    #[must_use]
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.0
            .marks
            .incomplete
            .get_if_set()
            .map(|mark| self.at(mark))
    }

    /// When the session loop took the connection over and began to read, after every [hold](Self::hold); `None` before.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        self.0.marks.open.get_if_set().map(|mark| self.at(mark))
    }

    /// Marks the application as active now.
    pub fn touch(&self) {
        self.0.marks.active.set(self.moment(Instant::now()));
    }

    pub(in crate::connection) fn at(&self, mark: Moment) -> Instant {
        self.0.opened_at + Duration::from_nanos(mark.0)
    }

    /// Nanoseconds since the connection was opened, which suffice for 584 years.
    #[inline]
    pub(crate) fn moment(&self, now: Instant) -> Moment {
        let since = now.saturating_duration_since(self.0.opened_at);
        Moment(since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos()))
    }
}
