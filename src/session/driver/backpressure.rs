//! Backpressure: stops handling or the encoding of pushes while too many bytes wait for the
//! peer.
//!
//! [`Watermark`](crate::session::schedule::Watermark) decides. This file measures the write
//! buffer for it.

use std::task::Context;

use tokio::time::Instant;

use super::{Phase, PollState, SessionLoop};
use crate::session::{
    framed_transport::FramedTransport,
    schedule::Waiting,
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
    /// of every message can be [recorded](Self::stop_over_limit).
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

    /// Stops handling because the write buffer is above its [limit](Self::handling_limit), unless
    /// the peer does not take all bytes and the replies are within their limit. The buffer held
    /// `before` bytes before the last message was handled.
    #[cold]
    pub(super) fn stop_over_limit(&mut self, before: usize) {
        if self.timer.stalled_since().is_none() {
            self.watermark.stop_handling();
            return;
        }
        self.writer
            .note_size(self.writer.len().saturating_sub(before));
        let (waiting, limit) = (self.waiting(), self.reply_limit());
        self.watermark.limit_handling(waiting, limit);
    }

    /// Returns the number of reply bytes at which no further message is handled, without the
    /// allowance. Returns 0 while the memory budget is used up.
    #[cold]
    fn reply_limit(&mut self) -> usize {
        if self.wire.driver().is_budget_used_up() {
            0
        } else {
            self.config.reply_limit(self.writer.largest())
        }
    }

    /// Returns the time at which more replies are allowed. The peer has taken nothing since
    /// `stalled`, and handling is stopped. Otherwise two sessions that push and answer each other's
    /// pushes could stop over a connection whose buffers shrink (design.md: Why can two busy
    /// sessions not stop each other?). A session that has pushed nothing is never one of them.
    #[cold]
    pub(super) fn next_allowance(&mut self, stalled: Instant) -> Option<Instant> {
        let may_stop = self.phase == Phase::Running && self.writer.has_pushed();
        if may_stop && !self.wire.driver().is_budget_used_up() {
            self.watermark.next_allowance(stalled)
        } else {
            None
        }
    }

    /// Returns the bytes in the write buffer.
    fn waiting(&mut self) -> Waiting {
        let pushed = self.writer.pushed();
        let replied = self.writer.len() - pushed;
        Waiting { pushed, replied }
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
        if self.writer.len() > self.handling_limit() {
            self.stop_over_limit(before);
        }
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
        let waiting = self.waiting();
        self.watermark.push_limit((self.config.low, high), waiting)
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
        let waiting = self.waiting();
        if waits == 0 {
            self.watermark.end_allowance();
        }
        let mut again = false;
        if self.watermark.stops_handling() && !lacks_memory {
            let limit = self.reply_limit();
            again = self.watermark.resume_handling(waiting, limit);
        }
        let high = if lacks_memory { 0 } else { self.high() };
        if self
            .watermark
            .update_pushes((self.config.low, high), waiting)
        {
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
