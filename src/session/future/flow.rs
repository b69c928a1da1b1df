//! Backpressure: how many bytes may wait for the peer before messages are no longer handled, or no
//! longer taken from the outbox.
//!
//! The bytes in the write buffer are *pushes*, which senders queued, or *replies*. Both are bounded
//! separately (design.md: Why can two busy sessions not stop each other?):
//!
//! - pushes are taken from the outbox up to the high watermark, and while replies are at most at
//!   the low watermark;
//! - messages are handled up to the reply limit, independent of pushes.

use std::task::Context;

use getty_core::{IntoReply, Request};
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::{Phase, State, Turn};
use crate::session::{
    buffers::{BUFFER, LARGE},
    renew::Renew,
    wire::Wire,
};

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// Returns the length of the write buffer above which handling pauses, for a flush at first. It
    /// is 0 while the peer does not take all that waits, so that the size of every message can be
    /// [noted](Self::is_over_limit).
    #[inline]
    pub(super) fn call_limit(&mut self) -> usize {
        if self.timer.stalled_since().is_some() {
            return 0;
        }
        let high = self.high();
        if !self.reader.is_in_bulk() || high < BUFFER {
            return high;
        }
        // replies to what was read at once leave at once
        self.writer.make_large();
        high.max(LARGE)
    }

    /// Returns `true` if handling must pause, for a write buffer above its
    /// [limit](Self::call_limit). It held `before` bytes before the last message was handled.
    #[cold]
    pub(super) fn is_over_limit(&mut self, before: usize) -> bool {
        if self.timer.stalled_since().is_none() {
            return true;
        }
        self.writer
            .note_size(self.writer.len().saturating_sub(before));
        self.reaches_reply_limit()
    }

    /// Returns `true` if the replies that wait have reached the limit, for a peer that does not
    /// take all bytes.
    #[cold]
    fn reaches_reply_limit(&mut self) -> bool {
        let waits = self.writer.len();
        if self.wire.driver().is_out_of_memory() {
            return waits > 0;
        }
        waits - self.writer.pushed() >= self.reply_limit()
    }

    /// Returns the number of reply bytes at which no further message is handled.
    #[cold]
    fn reply_limit(&self) -> usize {
        let limit = self.config.reply_limit(self.writer.largest());
        limit.saturating_add(self.timer.allowance())
    }

    /// Returns the time at which more replies are allowed, while the peer takes nothing since
    /// `stalled` and handling is stopped. Two sessions that push and answer each other's pushes can
    /// otherwise stop over a connection whose buffers shrink (design.md: Why can two busy sessions
    /// not stop each other?). A session that has pushed nothing is never one of them.
    #[cold]
    pub(super) fn next_allowance(&mut self, stalled: Instant) -> Option<Instant> {
        let may_stop = self.phase == Phase::Running && self.writer.has_pushed();
        if may_stop && !self.wire.driver().is_out_of_memory() {
            self.timer.next_allowance(stalled)
        } else {
            None
        }
    }

    /// Returns the high watermark, or 0 while the memory budget is used up, so that any byte that
    /// waits stops the rest.
    #[inline]
    fn high(&mut self) -> usize {
        if self.wire.driver().is_out_of_memory() {
            0
        } else {
            self.config.high
        }
    }

    /// Updates `replies_blocked` after a reply, before which the write buffer held `before` bytes.
    #[inline]
    pub(super) fn limit_calls(&mut self, before: usize) {
        self.replies_blocked = self.writer.len() > self.call_limit() && self.is_over_limit(before);
    }

    /// Returns the length of the write buffer up to which messages are taken from the outbox.
    #[inline]
    pub(super) fn push_limit(&mut self) -> usize {
        let high = self.high();
        if self.writer.len() == 0 {
            return high;
        }
        self.push_limit_behind(high)
    }

    /// As [`push_limit`](Self::push_limit), while bytes wait.
    fn push_limit_behind(&mut self, high: usize) -> usize {
        let pushed = self.writer.pushed();
        let replied = self.writer.len() - pushed;
        let resumes = !self.pushes_blocked || pushed <= self.config.low;
        if high == 0 || replied > self.config.low || !resumes {
            return 0;
        }
        replied.saturating_add(high)
    }

    /// Resumes handling and encoding after a flush, as far as the peer has made room. Returns
    /// `true` if there is work to do.
    #[cold]
    pub(super) fn unblock(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> bool {
        let waits = self.writer.len();
        let lacks_memory = waits > 0 && {
            let driver = self.wire.driver();
            driver.is_out_of_memory() && driver.wait_for_memory(cx)
        };
        let mut again = false;
        if self.replies_blocked && !lacks_memory && (waits == 0 || !self.reaches_reply_limit()) {
            self.replies_blocked = false;
            again = true;
        }
        let was_blocked = self.pushes_blocked;
        self.pushes_blocked = waits > 0 && (lacks_memory || waits > self.push_limit());
        if was_blocked && !self.pushes_blocked {
            if self.wire.driver().settle(false) {
                // a sender that waits goes first, or requests would take all the room each time
                turn.yields = true;
                cx.waker().wake_by_ref();
            }
            again = true;
        }
        again
    }
}
