//! Times of the heartbeats of a session, and of the responses to them.

use std::time::Duration;

use getty_core::{
    CloseReason, ConnectionHandle, Session,
    hooks::{HandleExt, Setting},
};
use tokio::time::Instant;

use super::Beat;
use crate::util::{Jitter, check_time};

/// Time settings of a [`HeartbeatLayer`](super::HeartbeatLayer).
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) period: Duration,
    pub(super) jitter: Jitter,
    /// Time within which a response to a heartbeat is expected.
    pub(super) response: Option<Duration>,
}

impl Schedule {
    /// Starts the heartbeats of `session`.
    pub(super) fn start<Out, B>(self, session: &Session<Out>, beat: B)
    where
        B: Beat<Out> + Send + 'static,
        Out: Send + 'static,
    {
        let now = Instant::now();
        let first = check_time(now, self.jitter.lengthen(self.period, session.handle()));
        let sender = session.clone();
        let mut state = State {
            last: now,
            unanswered: None,
            stalled: false,
        };
        session.add_setting(Setting::HeartbeatPeriod);
        session.schedule_check(first, move |handle, now| {
            let period = handle.setting(Setting::HeartbeatPeriod);
            let period = period.unwrap_or(self.period);
            let period = self.jitter.lengthen(period, handle);
            if !state.is_alive(self, handle, now) {
                handle.close_with(CloseReason::HeartbeatMissed);
                return None;
            }
            if state.next_beat(period, handle) <= now {
                state.last = now;
                if beat.beat(&sender) && self.response.is_some() {
                    state.unanswered.get_or_insert(now);
                }
            }
            let beat = state.next_beat(period, handle);
            let response = state.response_deadline(self, handle, now);
            Some(response.map_or(beat, |response| response.min(beat)))
        });
    }
}

/// State of the heartbeats of one session.
struct State {
    /// Time of the last heartbeat, initially of the start.
    last: Instant,
    /// Time of the first heartbeat since which nothing was received. While heartbeats wait behind
    /// other bytes that the peer reads slowly, the time of the last progress.
    unanswered: Option<Instant>,
    /// `true` if the write buffer was stalled at the last check.
    stalled: bool,
}

impl State {
    /// Returns the time of the next heartbeat. It becomes later if messages are sent.
    fn next_beat(&self, period: Duration, handle: &ConnectionHandle) -> Instant {
        check_time(self.last.max(handle.last_write()), period)
    }

    /// Returns the time by which something must be received. It may become later.
    fn response_deadline(
        &self,
        schedule: Schedule,
        handle: &ConnectionHandle,
        now: Instant,
    ) -> Option<Instant> {
        let beat = self.unanswered?;
        // While the session does not read, no response can be late. The next check is a full
        // timeout from now, and none can be late before (design.md: Why do receive deadlines pause
        // while the session does not read?).
        let since = handle.silent_since().unwrap_or(now).max(beat);
        since.checked_add(schedule.response?)
    }

    /// Updates the state. Returns `false` if a response is missing.
    fn is_alive(&mut self, schedule: Schedule, handle: &ConnectionHandle, now: Instant) -> bool {
        // A response may arrive within the clock tick of the heartbeat, so equal times count.
        if self
            .unanswered
            .is_some_and(|beat| handle.last_read() >= beat)
        {
            self.unanswered = None;
        }
        // A peer cannot respond to a heartbeat that has not reached it, so the time starts at the
        // last progress of the transport.
        let stalled = handle.stalled_since();
        if self.stalled || stalled.is_some() {
            let progress = stalled.unwrap_or_else(|| handle.last_write());
            self.unanswered = self.unanswered.map(|beat| beat.max(progress));
        }
        self.stalled = stalled.is_some();
        handle.silent_since().is_none()
            || self
                .response_deadline(schedule, handle, now)
                .is_none_or(|due| due > now)
    }
}
