//! Deadlines of the session loop and of its layers, on one timer.

use std::{pin::Pin, sync::Arc, task::Context};

use getty_core::{CloseReason, DrainDeadlineExceeded};
use tokio::time::Instant;

use super::{OutputEnd, Phase, PollState, SessionLoop, Step};
use crate::session::{
    calls::InFlight,
    framed_transport::FramedTransport,
    stack::{MessageStack, StackSource},
};

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Polls the timer with the earliest deadline. Returns [`Step::Next`] if the session must wait
    /// for it.
    #[inline]
    pub(super) fn poll_deadlines(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
    ) -> Step {
        let live = self.is_live();
        let driver = self.wire.driver();
        let write_timeout = driver.write_timeout().unwrap_or(self.config.write_timeout);
        let layers = if live { driver.next_deadline() } else { None };
        if layers.is_none() && self.timer.is_unused() {
            return Step::Next;
        }
        let stalled = self.timer.stalled_since();
        let write = stalled.zip(write_timeout);
        let write = write.and_then(|(since, timeout)| since.checked_add(timeout));
        let allowance = match stalled {
            Some(since) if self.watermark.stops_handling() => self.next_allowance(since),
            _ => None,
        };
        let Some(deadline) = layers
            .into_iter()
            .chain(write)
            .chain(self.timer.drain_deadline())
            .chain(self.timer.flush_delayed_until())
            .chain(allowance)
            .min()
        else {
            self.timer.release_if_fired();
            return Step::Next;
        };
        if self.timer.poll(cx, deadline).is_pending() {
            return Step::Next;
        }
        if allowance == Some(deadline) {
            self.watermark.increase_allowance();
            return Step::Repeat;
        }
        self.deadline_passed(calls, deadline, layers, write)
    }

    /// Acts on the `deadline` that has passed. It may be one of `layers`, the flush delay, the
    /// `write` timeout or the drain.
    #[cold]
    fn deadline_passed(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        deadline: Instant,
        layers: Option<Instant>,
        write: Option<Instant>,
    ) -> Step {
        if layers == Some(deadline) {
            self.wire
                .driver()
                .run_deadlines(Instant::now().max(deadline));
            return Step::Repeat;
        }
        if self.timer.flush_delayed_until() == Some(deadline) {
            return Step::Repeat;
        }
        if write == Some(deadline) {
            self.session().close_with(CloseReason::WriteTimeout);
        }
        if self.timer.drain_deadline().is_some() && self.phase <= Phase::Closing {
            let cut_off = Arc::new(DrainDeadlineExceeded);
            self.wire.driver().add_source(cut_off);
        }
        if write != Some(deadline) && self.allows_close_handshake() {
            self.cut_off_handlers(calls);
            return Step::Repeat;
        }
        Step::End
    }

    /// Returns `true` if the flush is delayed by the setting `flush_delay`.
    #[cold]
    pub(super) fn delays_flush(&mut self, poll: &mut PollState) -> bool {
        if let Some(delay) = self.config.flush_delay
            && self.phase == Phase::Running
            && self.output_end == OutputEnd::Open
            && self.watermark.is_open()
            && self.writer.can_delay(self.config.low)
            && self.timer.delay_flush(delay, poll.clock.now())
        {
            return true;
        }
        self.timer.end_flush_delay();
        false
    }
}
