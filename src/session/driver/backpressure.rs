//! Backpressure: stops handling or the encoding of pushes while too many bytes wait for the
//! peer.
//!
//! [`Watermark`](crate::session::schedule::Watermark) holds the flags. This file measures the
//! write buffer for it.

use std::task::Context;

use tokio::time::Instant;

use super::{Phase, PollState, SessionLoop};
use crate::session::{
    framed_transport::FramedTransport,
    stack::{MessageStack, StackSource},
};

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Returns the length of the write buffer above which handling pauses. Handling then waits for
    /// a flush first. The limit is 0 while the peer does not take all that waits, so that the size
    /// of every message can be [recorded](Self::is_over_limit).
    #[inline]
    pub(super) fn handling_limit(&mut self) -> usize {
        if self.timer.stalled_since().is_some() {
            return 0;
        }
        let high = self.high();
        let Some(gathered) = self.reader.sizing().gathered(high) else {
            return high;
        };
        // Replies to messages of one read share a write.
        self.writer.make_large();
        gathered
    }

    /// Returns `true` if handling must pause because the write buffer is above its
    /// [limit](Self::handling_limit). The buffer held `before` bytes before the last message was
    /// handled.
    #[cold]
    pub(super) fn is_over_limit(&mut self, before: usize) -> bool {
        if self.timer.stalled_since().is_none() {
            return true;
        }
        self.writer
            .note_size(self.writer.len().saturating_sub(before));
        self.reaches_reply_limit()
    }

    /// Returns `true` if the peer does not take all bytes and the waiting replies have reached the
    /// limit.
    #[cold]
    fn reaches_reply_limit(&mut self) -> bool {
        let waits = self.writer.len();
        if self.wire.driver().is_budget_used_up() {
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

    /// Returns the time at which more replies are allowed. The peer has taken nothing since
    /// `stalled`, and handling is stopped. Otherwise two sessions that push and answer each other's
    /// pushes could stop over a connection whose buffers shrink (design.md: Why can two busy
    /// sessions not stop each other?). A session that has pushed nothing is never one of them.
    #[cold]
    pub(super) fn next_allowance(&mut self, stalled: Instant) -> Option<Instant> {
        let may_stop = self.phase == Phase::Running && self.writer.has_pushed();
        if may_stop && !self.wire.driver().is_budget_used_up() {
            self.timer.next_allowance(stalled)
        } else {
            None
        }
    }

    /// Returns the high watermark. Returns 0 while the memory budget is used up, so that any byte
    /// that waits stops the rest.
    #[inline]
    fn high(&mut self) -> usize {
        if self.wire.driver().is_budget_used_up() {
            0
        } else {
            self.config.high
        }
    }

    /// Stops handling after a reply if the write buffer is above its limit. The buffer held
    /// `before` bytes before the reply.
    #[inline]
    pub(super) fn limit_handling(&mut self, before: usize) {
        let stopped = self.writer.len() > self.handling_limit() && self.is_over_limit(before);
        self.watermark.set_handling_stopped(stopped);
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

    /// Like [`push_limit`](Self::push_limit), for a buffer with waiting bytes.
    fn push_limit_behind(&mut self, high: usize) -> usize {
        let pushed = self.writer.pushed();
        let replied = self.writer.len() - pushed;
        self.watermark
            .push_limit((self.config.low, high), pushed, replied)
    }

    /// Resumes handling and encoding after a flush, as far as the peer has made room. Returns
    /// `true` if there is work to do.
    #[cold]
    pub(super) fn resume_work(&mut self, cx: &mut Context<'_>, poll: &mut PollState) -> bool {
        let waits = self.writer.len();
        let lacks_memory = waits > 0 && {
            let driver = self.wire.driver();
            driver.is_budget_used_up() && driver.register_for_budget(cx)
        };
        let mut again = false;
        if self.watermark.stops_handling()
            && !lacks_memory
            && (waits == 0 || !self.reaches_reply_limit())
        {
            self.watermark.set_handling_stopped(false);
            again = true;
        }
        let was_stopped = self.watermark.stops_pushes();
        let stopped = waits > 0 && (lacks_memory || waits > self.push_limit());
        self.watermark.set_pushes_stopped(stopped);
        if was_stopped && !stopped {
            if self.wire.driver().set_backpressure(false) {
                // Waiting senders must run first. Otherwise requests of the peer would take all the
                // room.
                poll.yields = true;
                cx.waker().wake_by_ref();
            }
            again = true;
        }
        again
    }
}
