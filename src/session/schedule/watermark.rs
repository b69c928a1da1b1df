//! Backpressure of a session: the work that stops while too many bytes wait for the peer.
//!
//! The bytes in the write buffer are *pushes* that senders queued or *replies*. Both are
//! bounded separately (design.md: Why can two busy sessions not stop each other?):
//!
//! - pushes are taken from the outbox up to the high watermark, and while replies are at most
//!   at the low watermark;
//! - messages are handled up to the reply limit, independent of pushes. An allowance above the
//!   limit grows while the peer takes nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Time without progress after which the allowance is increased.
const ALLOWANCE_AFTER: Duration = Duration::from_millis(100);
/// First value of the allowance, in bytes.
const MIN_ALLOWANCE: usize = 64 * 1024;
/// Maximum number of increases. The allowance is then 4 MiB, which is more than the kernel's
/// buffers of a connection can shrink by.
const MAX_INCREASES: u8 = 7;

/// Bytes in the write buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Bytes of pushes.
    pub(crate) pushed: usize,
    /// Bytes of replies.
    pub(crate) replied: usize,
}

impl Waiting {
    const fn total(self) -> usize {
        self.pushed + self.replied
    }
}

/// Decides from the bytes that wait which work stops.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// No further message is handled, because too many bytes of replies wait.
    handling: bool,
    /// No message is taken from the outbox, because too many bytes wait.
    pushes: bool,
    /// Number of increases of the allowance since the transport last took all that waits.
    increases: u8,
}

impl Watermark {
    /// Returns `true` if nothing has stopped, and there is no allowance.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        !(self.handling | self.pushes) && self.increases == 0
    }

    /// Returns `true` if handling has stopped. Replies are not encoded either.
    #[inline]
    pub(crate) const fn stops_handling(&self) -> bool {
        self.handling
    }

    /// Returns `true` if no message is taken from the outbox.
    #[inline]
    pub(crate) const fn stops_pushes(&self) -> bool {
        self.pushes
    }

    /// Stops handling until the next flush.
    #[inline]
    pub(crate) const fn stop_handling(&mut self) {
        self.handling = true;
    }

    /// Stops handling if the replies that wait have reached `limit` and the allowance. A `limit`
    /// of 0 means that memory is short: any byte that waits then stops handling.
    pub(crate) fn limit_handling(&mut self, waiting: Waiting, limit: usize) {
        if self.reaches_limit(waiting, limit) {
            self.handling = true;
        }
    }

    /// Resumes handling if the replies that wait are below `limit` and the allowance. Returns
    /// `true` if it had stopped and resumes.
    pub(crate) fn resume_handling(&mut self, waiting: Waiting, limit: usize) -> bool {
        let resumes = self.stops_handling() && !self.reaches_limit(waiting, limit);
        if resumes {
            self.handling = false;
        }
        resumes
    }

    fn reaches_limit(&self, waiting: Waiting, limit: usize) -> bool {
        let allowed = limit.saturating_add(self.allowance());
        waiting.total() > 0 && (limit == 0 || waiting.replied >= allowed)
    }

    /// Stops pushes if the `len` bytes that wait exceed `limit`. Returns `true` if it does.
    #[inline]
    pub(crate) const fn stop_pushes_above(&mut self, limit: usize, len: usize) -> bool {
        let stops = len > limit;
        if stops {
            self.pushes = true;
        }
        stops
    }

    /// Stops or resumes pushes. Returns `true` if they had stopped and resume.
    pub(crate) fn update_pushes(&mut self, low_and_high: (usize, usize), waiting: Waiting) -> bool {
        let had_stopped = self.stops_pushes();
        let total = waiting.total();
        if total > 0 && total > self.push_limit(low_and_high, waiting) {
            self.pushes = true;
            return false;
        }
        self.pushes = false;
        had_stopped
    }

    /// Returns the length of the write buffer up to which messages are taken from the outbox while
    /// bytes wait. A `high` of 0 means that memory is short.
    pub(crate) const fn push_limit(&self, (low, high): (usize, usize), waiting: Waiting) -> usize {
        let resumes = !self.stops_pushes() || waiting.pushed <= low;
        if high == 0 || waiting.replied > low || !resumes {
            return 0;
        }
        waiting.replied.saturating_add(high)
    }

    /// Returns the reply bytes that are allowed beyond the reply limit.
    fn allowance(&self) -> usize {
        let doublings = self.increases.checked_sub(1);
        doublings.map_or(0, |doublings| MIN_ALLOWANCE << doublings)
    }

    /// Returns the time at which the allowance is increased, where the transport has taken nothing
    /// since `stalled`. `None` unless handling has stopped, or once the allowance has reached its
    /// maximum.
    pub(crate) fn next_allowance(&self, stalled: Instant) -> Option<Instant> {
        if !self.stops_handling() || self.increases >= MAX_INCREASES {
            return None;
        }
        stalled.checked_add(ALLOWANCE_AFTER * (u32::from(self.increases) + 1))
    }

    /// Doubles the allowance. Must be called at the time of
    /// [`next_allowance`](Self::next_allowance) only.
    pub(crate) const fn increase_allowance(&mut self) {
        self.increases += 1;
    }

    /// Ends the allowance, because the transport has taken all that waited.
    pub(crate) const fn end_allowance(&mut self) {
        self.increases = 0;
    }

    /// Resumes everything, because nothing waits for the peer any more.
    pub(crate) const fn reset(&mut self) {
        *self = Self {
            handling: false,
            pushes: false,
            increases: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_AND_HIGH: (usize, usize) = (10, 100);

    const fn waiting(pushed: usize, replied: usize) -> Waiting {
        Waiting { pushed, replied }
    }

    #[test]
    fn pushes_resume_at_the_low_watermark() {
        let mut watermark = Watermark::default();
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, waiting(50, 0)), 100);
        assert!(watermark.stop_pushes_above(100, 101) && watermark.stops_pushes());
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, waiting(50, 0)), 0);
        assert!(!watermark.update_pushes(LOW_AND_HIGH, waiting(50, 0)));
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, waiting(10, 0)), 100);
        assert!(watermark.update_pushes(LOW_AND_HIGH, waiting(10, 0)) && watermark.is_open());
    }

    #[test]
    fn replies_delay_pushes_and_do_not_count_as_pushes() {
        let watermark = Watermark::default();
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, waiting(0, 10)), 110);
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, waiting(0, 11)), 0);
    }

    #[test]
    fn pushes_and_handling_stop_while_the_memory_budget_is_used_up() {
        let mut watermark = Watermark::default();
        assert_eq!(watermark.push_limit((10, 0), waiting(1, 0)), 0);
        watermark.limit_handling(waiting(1, 0), 0);
        assert!(watermark.stops_handling());
        assert!(watermark.resume_handling(waiting(0, 0), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn handling_resumes_within_an_allowance_that_grows_while_the_peer_takes_nothing() {
        let (mut watermark, stalled) = (Watermark::default(), Instant::now());
        watermark.limit_handling(waiting(0, 99), 100);
        assert_eq!(watermark.next_allowance(stalled), None, "below the limit");
        for increases in 1..=u32::from(MAX_INCREASES) {
            let allowed = 100 + watermark.allowance();
            watermark.limit_handling(waiting(7, allowed), 100);
            assert!(!watermark.resume_handling(waiting(7, allowed), 100));
            let next = watermark.next_allowance(stalled);
            assert_eq!(next, Some(stalled + increases * ALLOWANCE_AFTER));
            watermark.increase_allowance();
            assert!(watermark.resume_handling(waiting(7, allowed), 100));
        }
        assert_eq!(watermark.allowance(), 4 * 1024 * 1024);
        watermark.stop_handling();
        assert_eq!(watermark.next_allowance(stalled), None, "at the maximum");
        watermark.end_allowance();
        assert_eq!(watermark.allowance(), 0);
        assert!(watermark.stops_handling());
    }
}
