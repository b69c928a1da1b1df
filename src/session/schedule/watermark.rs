//! Backpressure flags of a session.
//!
//! The bytes in the write buffer are *pushes* that senders queued or *replies*. Both are
//! bounded separately (design.md: Why can two busy sessions not stop each other?):
//!
//! - pushes are taken from the outbox up to the high watermark, and while replies are at most
//!   at the low watermark;
//! - messages are handled up to the reply limit, independent of pushes.

/// Records which work has stopped because too many bytes wait for the peer.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// No further message is handled, because too many bytes of replies wait.
    handling: bool,
    /// No message is taken from the outbox, because too many bytes wait.
    pushes: bool,
}

impl Watermark {
    /// Returns `true` if nothing has stopped.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        !(self.handling | self.pushes)
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

    #[inline]
    pub(crate) const fn set_handling_stopped(&mut self, stopped: bool) {
        self.handling = stopped;
    }

    #[inline]
    pub(crate) const fn set_pushes_stopped(&mut self, stopped: bool) {
        self.pushes = stopped;
    }

    /// Resumes everything, because nothing waits for the peer any more.
    pub(crate) const fn reset(&mut self) {
        *self = Self {
            handling: false,
            pushes: false,
        };
    }

    /// Returns the length of the write buffer up to which messages are taken from the outbox, while
    /// bytes wait: `pushed` and `replied`. A `high` of 0 means that memory is short.
    pub(crate) const fn push_limit(
        &self,
        (low, high): (usize, usize),
        pushed: usize,
        replied: usize,
    ) -> usize {
        let resumes = !self.pushes || pushed <= low;
        if high == 0 || replied > low || !resumes {
            return 0;
        }
        replied.saturating_add(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_AND_HIGH: (usize, usize) = (10, 100);

    #[test]
    fn pushes_resume_at_the_low_watermark() {
        let mut watermark = Watermark::default();
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, 50, 0), 100);
        watermark.set_pushes_stopped(true);
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, 50, 0), 0);
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, 10, 0), 100);
    }

    #[test]
    fn replies_delay_pushes_and_do_not_count_as_pushes() {
        let watermark = Watermark::default();
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, 0, 10), 110);
        assert_eq!(watermark.push_limit(LOW_AND_HIGH, 0, 11), 0);
    }

    #[test]
    fn pushes_stop_while_the_memory_budget_is_used_up() {
        assert_eq!(Watermark::default().push_limit((10, 0), 1, 0), 0);
    }
}
