//! Decides whether the sessions of a batch are polled by the reader or by their tasks
//! (design.md: Why does the task that reads a socket poll the sessions' futures?).

use std::time::Duration;

use tokio::{
    runtime::{self, Handle},
    time::Instant,
};

use super::peer::WakeHandle;

/// Maximum number of sessions that are polled inline. More are left to their tasks, which other
/// threads can run.
const MAX_INLINE: usize = 32;
/// Number of sessions between two reads of the clock.
const CLOCK_INTERVAL: usize = 4;
/// Time limit for all sessions of a batch (design.md: What if a UDP handler takes long?).
/// Slower sessions are better polled on other threads, which take some ten microseconds to
/// wake.
const LIMIT: Duration = Duration::from_micros(300);
/// Time limit per session. A session with little to do needs a third.
const LIMIT_PER_SESSION: Duration = Duration::from_micros(20);
/// Time that is allowed in addition to [`LIMIT_PER_SESSION`].
const BASE_LIMIT: Duration = Duration::from_micros(40);
/// Time after which a batch was blocked by a handler. The operating system can cause such a
/// delay as well, but rarely does.
const BLOCKED: Duration = Duration::from_millis(20);
/// Number of slow batches in a row without a penalty. The operating system may have suspended
/// the thread.
const TOLERATED: u32 = 1;
/// Number of batches without inline polling after batches were slow. It doubles each time, up
/// to [`MAX_PENALTY`].
const FIRST_PENALTY: u32 = 16;
const MAX_PENALTY: u32 = 4096;

/// Polls sessions on the reader's task while that is quick.
///
/// Waking two tasks makes tokio wake another thread, which costs more than polling a session.
pub(super) struct InlineScheduler {
    runtime: runtime::Id,
    is_enabled: bool,
    /// Number of slow batches in a row.
    slow: u32,
    /// Number of further batches that are left to the sessions' tasks.
    penalty: u32,
    next_penalty: u32,
}

impl InlineScheduler {
    /// Panics if called outside of a runtime.
    pub(super) fn new(is_enabled: bool) -> Self {
        Self {
            runtime: Handle::current().id(),
            is_enabled,
            slow: 0,
            penalty: 0,
            next_penalty: FIRST_PENALTY,
        }
    }

    /// Polls all sessions in `wakes`, inline or by waking their tasks. `now` must be recent.
    /// Returns the current time if it reads the clock, and otherwise `now`.
    pub(super) fn run(&mut self, wakes: &mut Vec<WakeHandle>, now: Instant) -> Instant {
        if wakes.is_empty() {
            return now;
        }
        if !self.is_enabled || wakes.len() > MAX_INLINE || self.penalty > 0 {
            self.penalty = self.penalty.saturating_sub(1);
            wakes.drain(..).for_each(WakeHandle::wake);
            return now;
        }
        let limit = limit_for(wakes.len());
        let mut wakes = wakes.drain(..);
        let mut later = now;
        while wakes.len() > 0 && later - now <= limit {
            for wake in wakes.by_ref().take(CLOCK_INTERVAL) {
                wake.poll_inline(self.runtime);
            }
            later = Instant::now();
        }
        // the rest must not wait any longer for the slow ones
        wakes.for_each(WakeHandle::wake);
        self.record(later - now, limit);
        later
    }

    /// Updates the penalty after a batch that took `time`.
    fn record(&mut self, time: Duration, limit: Duration) {
        if time <= limit {
            self.slow = 0;
            self.next_penalty = (self.next_penalty / 2).max(FIRST_PENALTY);
            return;
        }
        self.slow += 1;
        if time > BLOCKED {
            self.next_penalty = MAX_PENALTY;
        } else if self.slow <= TOLERATED {
            return;
        }
        // one more slow batch after the penalty is enough for the next
        self.slow = TOLERATED;
        self.penalty = self.next_penalty;
        self.next_penalty = (self.next_penalty * 2).min(MAX_PENALTY);
    }
}

/// Returns the time limit of a batch for this number of sessions.
fn limit_for(sessions: usize) -> Duration {
    let sum = LIMIT_PER_SESSION * u32::try_from(sessions).unwrap_or(u32::MAX);
    LIMIT.min(BASE_LIMIT + sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn one_slow_batch_is_tolerated_and_two_in_a_row_are_not() {
        let mut scheduler = InlineScheduler::new(true);
        for time in [SLOW, LIMIT, SLOW, LIMIT] {
            scheduler.record(time, LIMIT);
            assert_eq!(scheduler.penalty, 0);
        }
        scheduler.record(SLOW, LIMIT);
        scheduler.record(SLOW, LIMIT);
        assert_eq!(scheduler.penalty, FIRST_PENALTY);
    }

    #[test]
    fn few_sessions_have_less_time_than_many() {
        assert_eq!(limit_for(1), BASE_LIMIT + LIMIT_PER_SESSION);
        assert!(limit_for(8) < LIMIT);
        assert_eq!(limit_for(MAX_INLINE), LIMIT);
    }

    #[tokio::test]
    async fn blocked_batch_is_not_tolerated() {
        let mut scheduler = InlineScheduler::new(true);
        scheduler.record(2 * BLOCKED, LIMIT);
        assert_eq!(scheduler.penalty, MAX_PENALTY);
    }

    #[tokio::test]
    async fn penalty_doubles_while_batches_stay_slow_and_shrinks_again() {
        let mut scheduler = InlineScheduler::new(true);
        for _ in 0..20 {
            scheduler.record(SLOW, LIMIT);
        }
        assert_eq!(scheduler.penalty, MAX_PENALTY);
        for _ in 0..20 {
            scheduler.record(LIMIT, LIMIT);
        }
        scheduler.record(SLOW, LIMIT);
        scheduler.record(SLOW, LIMIT);
        assert_eq!(scheduler.penalty, FIRST_PENALTY);
    }
}
