//! Closes a session: the phases from a close request or a failure to the end.

use std::{
    io,
    mem::needs_drop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{CloseReason, Panic, SharedError, TransportKind};
use tokio::time::Instant;
use tower::BoxError;

use super::{OutputEnd, Phase, PollState, SessionLoop, Step};
use crate::{
    session::{
        calls::InFlight,
        catch::{catch_panics, drop_catching_panics},
        framed_transport::FramedTransport,
        input::Discarded,
        schedule::{Clock, CooperativeBudget},
        stack::{MessageStack, StackSource},
    },
    transport::{Framing, Transport},
};

/// Maximum reads in one poll while the peer's input is discarded.
const LINGER_READS: usize = 16;
/// Maximum bytes that are discarded before the transport is dropped, even if the peer has not
/// ended its direction. Checked after every [`LINGER_READS`].
const LINGER_BYTES: usize = 32 * 1024 * 1024;
/// Maximum time of the transport's close handshake after the drain deadline has cut off
/// handlers (design.md: Why does a close handshake follow the drain deadline?).
pub(crate) const CLOSE_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Takes the first step of every close: reading and decoding stop, and the drain deadline
    /// begins.
    #[cold]
    pub(super) fn stop_reading(&mut self, phase: Phase, clock: &mut Clock) {
        self.phase = phase;
        let driver = self.wire.driver();
        driver.close_queue();
        if !driver.closes_after_flush() {
            self.set_drain_deadline(clock);
        }
        self.discard_input();
        // Must come last, because the destructors are the application's.
        let service = self.service.take();
        if const { needs_drop::<S>() } {
            drop_catching_panics(service);
        }
        catch_panics(|| self.source.stop_making());
    }

    /// Counts and drops the input that will not be handled.
    fn discard_input(&mut self) {
        let (bytes, ahead) = self.reader.abandon();
        if !ahead.is_empty() || bytes > 0 {
            let driver = self.wire.driver();
            driver.record_unhandled(ahead.len() as u64, bytes as u64);
        }
        ahead.discard();
    }

    /// Sets the drain deadline, unless it is set.
    fn set_drain_deadline(&mut self, clock: &mut Clock) {
        let deadline = self.wire.driver().requested_deadline();
        let deadline = deadline.unwrap_or(self.config.drain_deadline);
        self.timer.drain_until(|| clock.now().checked_add(deadline));
    }

    /// Sets the drain deadline if the close has one. `close` after `Close::after_flush` adds it
    /// (design.md: Why is there `Close::after_flush` beside `close`?).
    fn start_drain_deadline(&mut self, clock: &mut Clock) {
        if self.timer.drain_deadline().is_none() && !self.wire.driver().closes_after_flush() {
            self.set_drain_deadline(clock);
        }
    }

    /// Returns `true` if nothing more can reach the peer.
    pub(super) fn is_cut_short(&self) -> bool {
        matches!(
            self.session().reason(),
            Some(CloseReason::Io | CloseReason::WriteTimeout)
        )
    }

    /// Returns `true` if all accepted messages are encoded and flushed.
    fn is_flushed(&mut self) -> bool {
        !self.wire.driver().has_outgoing() && self.writer.is_flushed()
    }

    /// Returns `true` if the session must wait until the peer has ended its direction. A socket
    /// that is dropped with unread input resets the connection. So does input that arrives after
    /// the drop. A reset destroys output that the kernel still holds (design.md: Why does a closed
    /// session read on?).
    ///
    /// The wait ends at the drain deadline. It ends earlier if no byte has moved for the duration
    /// of that deadline. A session that was idle for longer ends at once.
    #[cold]
    fn awaits_input_end(&mut self) -> bool {
        if !self.may_be_reset() {
            return false;
        }
        let handle = self.wire.driver().handle();
        let stats = handle.stats();
        if stats.bytes_in == 0 && stats.bytes_out == 0 {
            return false;
        }
        let last = handle.last_read().max(handle.last_write());
        let requested = self.wire.driver().requested_deadline();
        let time = requested.unwrap_or(self.config.drain_deadline);
        let end = last.checked_add(time).into_iter();
        let Some(end) = end.chain(self.timer.drain_deadline()).min() else {
            return true;
        };
        if end <= Instant::now() {
            return false;
        }
        self.timer.move_drain_deadline(Some(end));
        true
    }

    /// Returns `true` if dropping the transport may destroy what was sent. Message transports and
    /// pipes in memory are excluded.
    fn may_be_reset(&mut self) -> bool {
        self.wire.transport().framing() == Framing::Stream
            && self.wire.driver().handle().transport() != TransportKind::Memory
    }

    /// Flushes accepted messages and waits for handlers in flight. Input is discarded meanwhile.
    #[cold]
    pub(super) fn poll_drain(
        &mut self,
        calls: &InFlight<S::Future>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) -> Step {
        self.start_drain_deadline(&mut poll.clock);
        if !self.is_flushed() {
            self.discard_while_flushing(cx);
            return Step::Next;
        }
        self.set_drain_deadline(&mut poll.clock);
        if !calls.is_empty() || !self.replies.is_empty() {
            return Step::Next;
        }
        if self.output_end == OutputEnd::Failed {
            return Step::End;
        }
        self.phase = Phase::Closing;
        Step::Repeat
    }

    /// Waits until the encoded bytes are flushed. Input is discarded meanwhile.
    #[cold]
    pub(super) fn poll_flushing(&mut self, cx: &mut Context<'_>, poll: &mut PollState) -> Step {
        self.start_drain_deadline(&mut poll.clock);
        if self.writer.is_flushed() {
            self.set_drain_deadline(&mut poll.clock);
            self.phase = Phase::Closing;
            return Step::Repeat;
        }
        self.discard_while_flushing(cx);
        Step::Next
    }

    /// Closes the transport, and then waits for the peer's end if its direction is open.
    #[cold]
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Step {
        let reason = self.session().reason().unwrap_or(CloseReason::Dropped);
        match self.wire.transport_mut().poll_close(cx, &reason) {
            Poll::Pending => return Step::Next,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                tracing::debug!(connection = %self.session(), %error, "failed to close the transport");
            }
        }
        if !self.reader.wants_more() {
            return Step::End; // the peer has ended its direction already
        }
        self.awaits_end = self.awaits_input_end();
        self.phase = Phase::Lingering;
        self.poll_linger(cx)
    }

    /// Discards the peer's input. Waits until the peer ends its direction, if `awaits_end`.
    #[cold]
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Step {
        let before = self.reader.discarded();
        let discarded = self.poll_discard(cx, usize::MAX);
        if self.reader.discarded() > before {
            // A peer that sends may have more in flight.
            self.awaits_end |= self.may_be_reset();
        }
        match discarded {
            Poll::Ready(Discarded::Input) => {
                let is_stream = self.wire.transport().framing() == Framing::Stream;
                if !is_stream || self.reader.discarded() >= LINGER_BYTES {
                    return Step::End;
                }
                cx.waker().wake_by_ref();
                Step::Next
            }
            Poll::Ready(Discarded::End) => {
                if self.wire.transport().framing() == Framing::Stream {
                    self.wire.driver().record_orderly_end();
                }
                Step::End
            }
            Poll::Ready(Discarded::Nothing) => Step::End,
            // Without cooperative budget every read is pending, and tokio wakes the task.
            Poll::Pending if self.awaits_end || CooperativeBudget::is_exhausted() => Step::Next,
            Poll::Pending => Step::End,
        }
    }

    /// Discards input while output is flushed: a peer that sends everything before it reads would
    /// otherwise never take the output. The bounds are those of [`poll_linger`](Self::poll_linger).
    #[cold]
    fn discard_while_flushing(&mut self, cx: &mut Context<'_>) {
        if self.wire.transport().framing() != Framing::Stream
            || self.output_end == OutputEnd::Failed
        {
            return;
        }
        let discarded = self.poll_discard(cx, LINGER_BYTES);
        if let Poll::Ready(Discarded::Input) = discarded
            && self.reader.discarded() < LINGER_BYTES
        {
            cx.waker().wake_by_ref();
        }
    }

    /// Reads and discards input. Ready with [`Discarded::Input`] after [`LINGER_READS`], or once
    /// the session has discarded `limit` bytes.
    #[cold]
    fn poll_discard(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Discarded> {
        for _ in 0..LINGER_READS {
            if self.reader.discarded() >= limit {
                break;
            }
            match self.reader.discard(&mut self.wire, cx) {
                Poll::Ready(Discarded::Input) => {}
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    self.reader.shrink_if_idle();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Discarded::Input)
    }

    /// Returns `true` if a close handshake may still reach the peer after the drain deadline. It
    /// cannot if the peer has taken no byte for as long as the handshake may take.
    #[cold]
    pub(super) fn allows_close_handshake(&mut self) -> bool {
        let drains = matches!(self.phase, Phase::Draining | Phase::Flushing);
        let stalled = self.timer.stalled_since();
        let is_stalled = stalled.is_some_and(|since| since.elapsed() >= CLOSE_HANDSHAKE_TIMEOUT);
        drains && !self.overdue && self.output_end != OutputEnd::Failed && !is_stalled
    }

    /// Drops handlers in flight and queued messages because the drain deadline has passed. Encoded
    /// bytes are still flushed, and the transport closes.
    #[cold]
    pub(super) fn cut_off_handlers(&mut self, mut calls: Pin<&mut InFlight<S::Future>>) {
        self.overdue = true;
        let end = Instant::now().checked_add(CLOSE_HANDSHAKE_TIMEOUT);
        self.timer.move_drain_deadline(end);
        self.phase = Phase::Flushing;
        self.count_cut_off(calls.len());
        self.wire.driver().fail_queued(None);
        calls.as_mut().clear();
        for reply in self.replies.take() {
            drop_catching_panics(reply);
        }
    }

    /// Counts messages whose handlers do not finish, and replies that are not encoded.
    #[cold]
    fn count_cut_off(&mut self, in_flight: usize) {
        let driver = self.wire.driver();
        if in_flight > 0 {
            driver.record_unhandled(in_flight as u64, 0);
            driver.set_in_flight(0);
        }
        if !self.replies.is_empty() {
            driver.record_unsent(self.replies.len() as u64, 0);
        }
    }

    /// Ends both directions after a read error, such as a reset. Messages that were read before are
    /// handled until the drain deadline (design.md: Why are messages handled after the connection
    /// has failed?).
    #[cold]
    pub(super) fn read_failed(&mut self, error: io::Error, poll: &mut PollState) -> Step {
        if matches!(self.phase, Phase::Running | Phase::Receiving) {
            self.reader.cut_off();
        }
        self.write_failed(error, poll)
    }

    /// Ends our direction after a write error. Messages that the peer has sent or still sends are
    /// handled until the drain deadline; replies are discarded and counted.
    #[cold]
    pub(super) fn write_failed(&mut self, error: io::Error, poll: &mut PollState) -> Step {
        let error: SharedError = Arc::new(error);
        let is_closing = self.session().is_closing();
        self.session().close_with(CloseReason::Io);
        self.wire.driver().add_source(Arc::clone(&error));
        if !matches!(
            self.phase,
            Phase::Running | Phase::Receiving | Phase::Draining
        ) {
            return Step::End;
        }
        self.writer.discard_unsent(&mut self.wire, &error);
        self.output_end = OutputEnd::Failed;
        // Nothing waits for the peer any more.
        self.watermark.reset();
        self.timer.record_flushed();
        self.timer.end_flush_delay();
        self.wire.driver().fail_queued(Some(&error));
        if self.phase == Phase::Running {
            if is_closing {
                self.stop_reading(Phase::Draining, &mut poll.clock);
            } else {
                self.phase = Phase::Receiving;
            }
        }
        self.set_drain_deadline(&mut poll.clock);
        Step::Repeat
    }

    /// Stops the handling of a connection that has failed.
    #[cold]
    pub(super) fn stop_receiving(&mut self) {
        if self.phase == Phase::Receiving {
            self.discard_input();
            self.reader.cut_off();
        }
    }

    /// Closes the session after an error of the message stack, which may be a panic that a layer
    /// has caught.
    #[cold]
    pub(super) fn stack_failed(&mut self, error: impl Into<BoxError>) {
        let error = error.into();
        let reason = if error.is::<Panic>() {
            CloseReason::Panicked
        } else {
            CloseReason::Handler
        };
        self.close_because(reason, error);
        self.stop_receiving();
    }
}
