//! The end of a session: what each failure makes of it, and the steps from there.

use std::{
    io,
    mem::{self, needs_drop},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use getty_core::{CloseReason, IntoReply, Panic, Request, SharedError, TransportKind};
use tokio::{task::coop, time::Instant};
use tower::{BoxError, Service};

use super::{Finish, Next, Phase, State, Turn, quietly};
use crate::{
    session::{
        calls::Calls, clock::Clock, queue::Queue, read::Discarded, renew::Renew, wire::Wire,
    },
    transport::Framing,
};

/// Maximum reads in one poll while the peer's input is discarded.
const LINGER_READS: usize = 16;
/// Maximum bytes that are discarded before the transport is dropped, even if the peer has not ended
/// its direction. Checked after every [`LINGER_READS`].
const LINGER_BYTES: usize = 32 * 1024 * 1024;
/// Time beyond the drain deadline for the transport's goodbye, such as a close frame, where
/// handlers were cut off.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// The first step of every close: nothing is read or decoded any more, and the rest has a deadline.
    #[cold]
    pub(super) fn stop_reading(&mut self, phase: Phase, clock: &mut Clock) {
        self.phase = phase;
        let driver = self.wire.driver();
        driver.close_queue();
        if !driver.closes_after_flush() {
            self.begin_drain_deadline(clock);
        }
        self.discard_input();
        // last, because the destructors are the application's
        let service = self.service.take();
        if const { needs_drop::<S>() } {
            quietly(|| drop(service));
        }
        quietly(|| self.renew.stop_making());
    }

    /// Counts what was received and will not be handled, and drops it.
    fn discard_input(&mut self) {
        let messages = self.waiting.len() as u64;
        let bytes = self.reader.abandon() as u64;
        if messages > 0 || bytes > 0 {
            self.wire.driver().unhandled(messages, bytes);
        }
        self.waiting.take().discard();
    }

    /// The rest has a deadline from here on, unless it has one already.
    pub(super) fn begin_drain_deadline(&mut self, clock: &mut Clock) {
        let deadline = self.wire.driver().requested_deadline();
        let deadline = deadline.unwrap_or(self.config.drain_deadline);
        self.timer.drain_until(|| clock.now().checked_add(deadline));
    }

    /// Begins the drain deadline that a close without one was given later.
    pub(super) fn hurry(&mut self, clock: &mut Clock) {
        if self.timer.drain_deadline().is_none() && !self.wire.driver().closes_after_flush() {
            self.begin_drain_deadline(clock);
        }
    }

    /// Whether nothing that is left to say can reach the peer.
    pub(super) fn is_cut_short(&self) -> bool {
        matches!(
            self.session().reason(),
            Some(CloseReason::Io | CloseReason::WriteTimeout)
        )
    }

    /// Nothing waits to be encoded, and all that was encoded has left.
    pub(super) fn is_flushed(&mut self) -> bool {
        !self.wire.driver().has_outgoing() && self.writer.is_flushed()
    }

    #[cold]
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reason = self.session().reason().unwrap_or(CloseReason::Dropped);
        if let Err(error) = ready!(self.wire.poll_close(cx, &reason)) {
            tracing::debug!(session = %self.session(), %error, "closing the transport failed");
        }
        if !self.reader.wants_more() {
            return Poll::Ready(()); // the peer has ended its direction already
        }
        self.awaits_end = self.awaits_input_end();
        self.phase = Phase::Lingering;
        self.poll_linger(cx)
    }

    /// Returns `true` if the session waits until the peer has ended its direction. A socket that is
    /// dropped with unread input, or that input reaches later, resets the connection, which
    /// destroys output that the kernel still holds (design.md: Why does a closed session read on?).
    ///
    /// The wait ends at the drain deadline, or earlier when the deadline's duration has passed
    /// since the last byte moved. A session that was idle for longer ends at once.
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
        self.wire.framing() == Framing::Stream
            && self.wire.driver().handle().transport() != TransportKind::Memory
    }

    /// Discards input while the session drains: a peer that sends everything before it reads would
    /// otherwise never take what is flushed. The bound is that of
    /// [`poll_linger`](Self::poll_linger).
    #[cold]
    pub(super) fn discard_while_draining(&mut self, cx: &mut Context<'_>) {
        if self.wire.framing() != Framing::Stream || self.finish == Finish::Failed {
            return;
        }
        for _ in 0..LINGER_READS {
            if self.reader.discarded() >= LINGER_BYTES {
                return;
            }
            match self.reader.discard(&mut self.wire, cx) {
                Poll::Ready(Discarded::Bytes(_)) => {}
                Poll::Ready(Discarded::End | Discarded::Nothing) => return,
                Poll::Pending => return self.reader.rest(),
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Discards what the peer still sends. Waits until the peer ends its direction, if
    /// `awaits_end`.
    #[cold]
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..LINGER_READS {
            match self.reader.discard(&mut self.wire, cx) {
                Poll::Ready(Discarded::Bytes(bytes)) => {
                    // a peer that sends may have more in flight
                    self.awaits_end |= bytes > 0 && self.may_be_reset();
                }
                Poll::Ready(Discarded::End) => {
                    if self.wire.framing() == Framing::Stream {
                        self.wire.driver().ended_orderly();
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(Discarded::Nothing) => return Poll::Ready(()),
                Poll::Pending => {
                    self.reader.rest();
                    // without budget every read is pending, and tokio wakes the task
                    if self.awaits_end || !coop::has_budget_remaining() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(());
                }
            }
        }
        if self.wire.framing() != Framing::Stream || self.reader.discarded() >= LINGER_BYTES {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns `true` if the transport's goodbye may still reach the peer after the drain deadline.
    /// It cannot if the peer has taken no byte for as long as the goodbye may take.
    #[cold]
    pub(super) fn may_say_goodbye(&mut self) -> bool {
        let drains = matches!(self.phase, Phase::Draining | Phase::Flushing);
        let stalled = self.timer.stalled_since();
        let is_stalled = stalled.is_some_and(|since| since.elapsed() >= GOODBYE);
        drains && !self.overdue && self.finish != Finish::Failed && !is_stalled
    }

    /// Drops handlers in flight and what is queued, when the drain deadline has passed. Encoded
    /// bytes still leave, and the transport sends its goodbye.
    #[cold]
    pub(super) fn cut_off_handlers(&mut self, mut calls: Pin<&mut Calls<S::Future>>) {
        self.overdue = true;
        let end = Instant::now().checked_add(GOODBYE);
        self.timer.move_drain_deadline(end);
        self.phase = Phase::Flushing;
        self.count_cut_off(calls.len());
        self.wire.driver().fail_queued(None);
        calls.as_mut().clear();
        for reply in mem::replace(&mut self.replies, Queue::new()) {
            quietly(|| drop(reply));
        }
    }

    /// Counts messages whose handlers do not finish, and replies that are not encoded.
    #[cold]
    fn count_cut_off(&mut self, in_flight: usize) {
        let driver = self.wire.driver();
        if in_flight > 0 {
            driver.unhandled(in_flight as u64, 0);
            driver.in_flight(0);
        }
        if !self.replies.is_empty() {
            driver.unsent(self.replies.len() as u64, 0);
        }
    }

    /// Ends both directions after a read error, such as a reset. Messages that were read before are
    /// handled, until the drain deadline.
    #[cold]
    pub(super) fn read_failed(&mut self, error: io::Error, turn: &mut Turn) -> Next {
        if matches!(self.phase, Phase::Running | Phase::Receiving) {
            self.reader.cut_off();
        }
        self.write_failed(error, turn)
    }

    /// Ends our direction after a write error. Messages that the peer has sent or still sends are
    /// handled until the drain deadline; replies are discarded and counted.
    #[cold]
    pub(super) fn write_failed(&mut self, error: io::Error, turn: &mut Turn) -> Next {
        let error: SharedError = Arc::new(error);
        let is_closing = self.session().is_closing();
        self.session().close_with(CloseReason::Io);
        self.wire.driver().note_source(Arc::clone(&error));
        if !matches!(
            self.phase,
            Phase::Running | Phase::Receiving | Phase::Draining
        ) {
            return Next::End;
        }
        self.writer.give_up(&mut self.wire, &error);
        self.finish = Finish::Failed;
        // nothing waits for the peer any more
        (self.replies_blocked, self.pushes_blocked) = (false, false);
        self.timer.flowed();
        self.timer.let_go();
        self.wire.driver().fail_queued(Some(&error));
        if self.phase == Phase::Running {
            if is_closing {
                self.stop_reading(Phase::Draining, &mut turn.clock);
            } else {
                self.phase = Phase::Receiving;
            }
        }
        self.begin_drain_deadline(&mut turn.clock);
        Next::Again
    }

    /// Stops the handling of a connection that has failed.
    #[cold]
    pub(super) fn stop_receiving(&mut self) {
        if self.phase == Phase::Receiving {
            self.discard_input();
            self.reader.cut_off();
        }
    }

    /// The message stack returned an error, which may be a panic that a layer of it has caught.
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

    pub(super) fn close_because(&mut self, reason: CloseReason, source: impl Into<BoxError>) {
        self.session().close_because(reason, source);
    }
}
