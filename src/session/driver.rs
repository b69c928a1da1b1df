//! The session loop: reads, decodes, calls the message stack, writes and closes.
//!
//! One future does all this work (design.md: Why is a session one future and not two tasks?).
//! Its [phase](Phase) decides which steps a poll takes:
//!
//! ```text
//!            stack is made,            read or write
//!            no open guard             error
//!   Opening ────────────▶ Running ─────────────────▶ Receiving ──▶ end
//!      │                     │
//!      │ close               │ close, or error
//!      ▼                     │ after a close      drain deadline,
//!   Draining ◀───────────────┘                    or a panic in any
//!      │    ──────────────────────▶ Flushing ◀──── phase above
//!      │ handled and flushed           │
//!      ▼                               │ flushed
//!   Closing ◀──────────────────────────┘
//!      │ transport is closed
//!      ▼
//!   Lingering ──▶ end
//! ```
//!
//! No phase returns to an earlier one, except for `Upgrading`: a reply leads from `Running` to
//! it, and the upgraded transport back. A close in it leads to `Flushing` while output waits.
//! The session ends
//!
//! - in `Opening` or `Running`, at a close as `Io` or `WriteTimeout`, because nothing can reach
//!   the peer;
//! - in `Opening`, and from `Flushing` on, at a read or write error;
//! - in `Receiving`, once all input is handled;
//! - in `Draining`, once the handlers in flight have finished, if the output has failed;
//! - in `Closing`, once the transport is closed, if the peer has ended its direction already;
//! - in `Lingering`, once the peer has ended its direction, or at a bound on discarded input;
//! - in `Upgrading`, at a failure, and at a close while the transport runs its handshake,
//!   because nothing can reach the peer;
//! - from `Flushing` on, at a panic, or at once if the output has failed;
//! - at the write timeout, in every phase in which output waits;
//! - at the drain deadline, from `Receiving` on. It leads from `Draining` to `Flushing` instead
//!   if a close handshake can succeed, and gives `Flushing` 1 s more.
//!
//! | phase | reads | calls | writes | deadlines |
//! |---|---|---|---|---|
//! | `Opening` | no | the make-service | pushes, pings | layers, write |
//! | `Running` | decodes | all | replies, pushes, pings | layers, write, flush, reply |
//! | `Upgrading` | no | none | encoded bytes, then the transport's handshake | layers, write |
//! | `Receiving` | decodes | all | nothing | drain |
//! | `Draining` | discards | in flight finish | replies, pushes, pings | drain, write |
//! | `Flushing` | discards | none | encoded bytes, pings | drain, write |
//! | `Closing` | no | none | close handshake | drain |
//! | `Lingering` | discards | none | nothing | drain |
//!
//! In `Receiving` a read error ends the reading. `Draining` and `Flushing` discard input on a
//! byte stream only, and only while output waits for its flush. Pushes of `Draining` were
//! accepted before the close. The deadlines are those that layers register, the write timeout,
//! the end of a flush delay, the increase of the reply allowance, and the drain deadline.
//!
//! [`OutputEnd`] is independent of the phase. `finish` ends this side's direction, and the
//! session still reads and calls. The end of the peer's direction changes no phase either:
//! `Running` continues until all received messages are handled, and then requests a close.

mod activity;
mod backpressure;
mod deadlines;
mod discard;
mod dispatch;
mod settings;
mod shutdown;
mod upgrade;

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{
    Close, CloseReason, Panic, Reply, Session, SharedError,
    driver::{CloseGuard, DEFAULT_QUEUE_BYTES},
    sync::Lazy,
};

pub(super) use self::discard::discard;
pub(crate) use self::shutdown::CLOSE_HANDSHAKE_TIMEOUT;
use super::{
    calls::InFlight,
    catch::catch_panics,
    config::Config,
    framed_transport::FramedTransport,
    input::Reader,
    output::Writer,
    schedule::{Clock, CooperativeBudget, Timer, Watermark},
    stack::{MessageStack, StackSource},
};
use crate::transport::{Transport, WriteClosed};

/// State of one session, except for its handlers in flight.
pub(super) struct SessionLoop<S, W: FramedTransport, R> {
    // Must be the first field. On a drop the transport goes before its driver, which notifies
    // senders (design.md: Why are fields declared in a particular order?).
    wire: W,
    /// `None` while the stack is made and after the session closes. A service that is not called
    /// any more may hold a position in the queue of a shared limit.
    service: Option<S>,
    source: R,
    config: Arc<Config>,
    phase: Phase,
    reader: Reader<W::In>,
    writer: Writer,
    /// Replies of finished handlers that are not encoded yet because of backpressure.
    replies: Lazy<VecDeque<Reply<W::Out>>>,
    timer: Timer,
    output_end: OutputEnd,
    watermark: Watermark,
    /// `true` once the drain deadline has passed and only the close handshake remains.
    overdue: bool,
    /// In `Lingering`: `true` if the session must wait until the peer ends its direction. Otherwise
    /// only input that has arrived is discarded.
    awaits_end: bool,
    /// Decoded messages that the driver has not counted yet.
    messages_in: u32,
    budget: CooperativeBudget,
}

/// Phase of a session. See the [module](self) for a diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The message stack is made, or a layer delays the opening.
    Opening,
    /// The session is open.
    Running,
    /// The connection has failed. Messages that were received are handled.
    Receiving,
    /// A close was requested. Accepted work is finished.
    Draining,
    /// The transport is upgraded in an open session. It comes after the phases that encode, because
    /// it does not, and returns to `Running`.
    Upgrading,
    /// Only encoded bytes are flushed, after a panic or the drain deadline.
    Flushing,
    /// The transport is closed as its protocol requires.
    Closing,
    /// Our direction has ended. Input is discarded, so that the connection is not reset.
    Lingering,
}

/// State of our direction, which may end before the session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputEnd {
    /// Messages are encoded.
    Open,
    /// `finish` was called. Nothing more is encoded, and our direction ends once all is flushed.
    Requested,
    /// Our direction has ended.
    Finished,
    /// The connection has failed and takes no more bytes.
    Failed,
}

/// State of one poll. It records which parts have registered the waker and need not be polled
/// again.
#[derive(Default)]
struct PollState {
    clock: Clock,
    service_pending: bool,
    calls_pending: bool,
    transport_pending: bool,
    /// Other tasks run first: the cooperative budget is used up, or senders wait.
    yields: bool,
    /// The service was called, and not replaced since.
    service_called: bool,
    /// A message was decoded.
    decoded: bool,
    /// The flush was delayed, because more bytes are expected to share it.
    flush_delayed: bool,
}

/// Result of a step of the poll.
enum Step {
    /// There is more work: the poll starts again at the first step.
    Repeat,
    /// The next step follows.
    Next,
    /// The session has ended.
    End,
}

impl<S, W: FramedTransport, R> SessionLoop<S, W, R> {
    pub(super) fn new(service: Option<S>, source: R, mut wire: W, config: Arc<Config>) -> Self {
        wire.driver().set_queue_capacity(config.queue);
        if config.queue_bytes != DEFAULT_QUEUE_BYTES {
            wire.driver().set_queue_bytes(config.queue_bytes);
        }
        if let Some(budget) = &config.budget {
            wire.driver().set_memory_budget(budget.clone());
        }
        if wire.transport().has_ping() {
            wire.driver().set_has_ping();
        }
        let framing = wire.transport().framing();
        Self {
            phase: Phase::Opening,
            reader: Reader::new(framing, wire.max_frame()),
            writer: Writer::new(framing),
            replies: Lazy::new(),
            timer: Timer::default(),
            output_end: OutputEnd::Open,
            watermark: Watermark::default(),
            overdue: false,
            awaits_end: false,
            messages_in: 0,
            budget: CooperativeBudget::default(),
            wire,
            service,
            source,
            config,
        }
    }

    #[inline]
    pub(super) fn session(&self) -> &Session<W::Out> {
        self.wire.session()
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }
}

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Takes every step that can be taken. Ready once the session has ended and can be dropped.
    pub(super) fn poll(
        &mut self,
        mut calls: Pin<&mut InFlight<S::Future>>,
        guard: &mut CloseGuard,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut poll = PollState::default();
        let _current = self.wire.driver().enter();
        if self.wire.driver().register(cx) {
            self.apply_settings(&poll);
        }
        loop {
            // A session that waited for input goes straight to the read.
            if !self.is_idle(&calls) {
                self.open_when_ready(guard, cx, &mut poll);
                if let Step::End = self.close_when_requested(calls.as_mut(), &mut poll) {
                    return Poll::Ready(());
                }
                match self.poll_dispatch(calls.as_mut(), cx, &mut poll) {
                    Step::Repeat => continue,
                    Step::Next => {}
                    Step::End => return Poll::Ready(()),
                }
                match self.poll_output(&calls, cx, &mut poll) {
                    Step::Repeat => continue,
                    Step::Next => {}
                    Step::End => return Poll::Ready(()),
                }
            }
            let step = match self.phase {
                Phase::Opening => Step::Next,
                Phase::Running | Phase::Receiving => self.poll_input(cx, &mut poll),
                Phase::Draining => self.poll_drain(&calls, cx, &mut poll),
                Phase::Upgrading => self.poll_upgrade(cx, &mut poll),
                Phase::Flushing => self.poll_flushing(cx, &mut poll),
                Phase::Closing => self.poll_close(cx),
                Phase::Lingering => self.poll_linger(cx),
            };
            match step {
                Step::Repeat => continue,
                Step::Next => {}
                Step::End => return Poll::Ready(()),
            }
            self.release_readiness(&mut poll);
            let in_flight = if calls.is_empty() { 0 } else { calls.len() };
            self.publish_activity(in_flight, &mut poll);
            match self.poll_deadlines(calls.as_mut(), cx) {
                Step::Repeat => poll.clock = Clock::default(),
                Step::Next => return Poll::Pending,
                Step::End => return Poll::Ready(()),
            }
        }
    }

    /// Closes the session after a panic in a poll. Encoded bytes are still flushed. Breaks if the
    /// panic came from the flush itself.
    #[cold]
    pub(super) fn recover(
        &mut self,
        mut calls: Pin<&mut InFlight<S::Future>>,
        panic: Panic,
    ) -> ControlFlow<()> {
        let was_flushing = self.phase >= Phase::Flushing;
        self.close_because(CloseReason::Panicked, panic);
        if was_flushing {
            return ControlFlow::Break(());
        }
        self.writer.truncate_incomplete();
        self.count_messages(&mut PollState::default());
        catch_panics(|| self.stop_reading(Phase::Flushing, &mut Clock::default()));
        self.wire.driver().record_unhandled(calls.len() as u64, 0);
        calls.as_mut().clear();
        ControlFlow::Continue(())
    }

    /// Returns `true` if only the transport can have work. Most polls begin in this state.
    #[inline]
    fn is_idle(&mut self, calls: &InFlight<S::Future>) -> bool {
        !self.reader.is_decodable()
            && self.phase == Phase::Running
            && calls.is_empty()
            && self.writer.is_idle()
            && !self.reader.has_ahead()
            && self.replies.is_empty()
            && self.watermark.is_open()
            && self.output_end != OutputEnd::Requested
            && !self.reader.is_decoded()
            && self.wire.driver().is_idle()
    }

    /// Opens the session once its stack is made and no layer delays it. A session that was closed
    /// first never opens, because the holder of an open guard may have refused it.
    #[inline]
    fn open_when_ready(
        &mut self,
        guard: &mut CloseGuard,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) {
        if self.phase == Phase::Opening
            && !self.is_being_made(cx, poll)
            && !self.wire.driver().is_open_delayed()
            && !self.is_closing()
        {
            self.phase = Phase::Running;
            guard.open();
        }
    }

    /// Returns `true` while the message stack is made. The loop writes meanwhile, and runs
    /// deadlines.
    #[inline]
    fn is_being_made(&mut self, cx: &mut Context<'_>, poll: &mut PollState) -> bool {
        poll.service_pending = poll.service_pending || self.source.poll_make(&mut self.service, cx);
        poll.service_pending
    }

    /// Begins the close that was requested. It ends the session if nothing can reach the peer.
    #[inline]
    fn close_when_requested(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        poll: &mut PollState,
    ) -> Step {
        if self.is_live() && self.is_closing() {
            if self.phase == Phase::Upgrading {
                return self.cut_off_upgrade(calls, poll);
            }
            self.stop_reading(Phase::Draining, &mut poll.clock);
            if self.is_cut_short() {
                return Step::End;
            }
        }
        Step::Next
    }

    /// Handles messages that have arrived, and encodes what is to be sent.
    #[inline]
    fn poll_dispatch(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) -> Step {
        if self.phase <= Phase::Draining {
            self.dispatch(calls, cx, poll);
            self.count_messages(poll);
            let driver = self.wire.driver();
            if driver.take_activity() {
                driver.record_active(poll.clock.timestamp(driver));
            }
            if self.is_live() && self.is_closing() {
                return Step::Repeat;
            }
        }
        Step::Next
    }

    /// Sends pings, writes and flushes, ends our direction, and updates backpressure.
    #[inline]
    fn poll_output(
        &mut self,
        calls: &InFlight<S::Future>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) -> Step {
        if self.output_end == OutputEnd::Failed {
            return self.without_output(calls);
        }
        if self.wire.driver().is_ping_requested()
            && self.phase < Phase::Closing
            && let Poll::Ready(Err(error)) = self.poll_ping(cx)
        {
            return self.write_failed(error, poll);
        }

        // Replies to messages that arrived together share a flush (design.md: Why does the session
        // loop check `has_more`?).
        let delayed = self.has_more_input(poll)
            || (self.config.flush_delay.is_some() && self.delays_flush(poll));
        poll.flush_delayed = delayed;
        if !delayed
            && let Poll::Ready(Err(error)) =
                self.writer
                    .poll_flush(&mut self.wire, cx, &mut poll.clock, &mut self.timer)
        {
            if !WriteClosed::is(&error) {
                return self.write_failed(error, poll);
            }
            let error: SharedError = Arc::new(error);
            self.writer.discard_unsent(&mut self.wire, &error);
            return Step::Repeat;
        }
        if self.reader.sizing().is_large() && !delayed && self.writer.len() > 0 {
            // The peer does not take all bytes, so nothing more is gathered for it.
            self.reader.reset_sizing();
            return Step::Repeat;
        }
        if self.output_end == OutputEnd::Requested
            && self.writer.is_flushed()
            && let Poll::Ready(Err(error)) = self.poll_finish(cx)
        {
            return self.write_failed(error, poll);
        }
        if (!self.watermark.is_open() || self.writer.len() > 0)
            && !delayed
            && self.resume_work(cx, poll)
        {
            return Step::Repeat;
        }
        self.wire
            .driver()
            .set_backpressure(self.watermark.stops_pushes());
        self.wire.driver().charge_written(self.writer.len());
        Step::Next
    }

    /// Replaces [`poll_output`](Self::poll_output) for a connection that has failed. Ends the
    /// session once all messages are handled.
    #[cold]
    fn without_output(&mut self, calls: &InFlight<S::Future>) -> Step {
        if self.phase == Phase::Receiving && self.reader.is_finished() && calls.is_empty() {
            return Step::End;
        }
        if self.phase > Phase::Draining {
            return Step::End;
        }
        Step::Next
    }

    #[cold]
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.transport_mut().poll_finish(cx))?;
        self.output_end = OutputEnd::Finished;
        if let Some(ticket) = self.writer.take_finish_ticket() {
            self.wire.driver().complete_finish(&ticket);
        }
        Poll::Ready(Ok(()))
    }

    #[cold]
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.transport_mut().poll_ping(cx))?;
        self.wire.driver().clear_ping();
        self.writer.mark_dirty();
        Poll::Ready(Ok(()))
    }

    /// Reads once, if there is room.
    #[inline(always)]
    fn poll_input(&mut self, cx: &mut Context<'_>, poll: &mut PollState) -> Step {
        if poll.transport_pending {
            self.reader.shrink_if_idle();
            return Step::Next;
        }
        if !self.reader.wants_more() || poll.yields {
            return Step::Next;
        }
        match self.reader.poll_read(&mut self.wire, cx) {
            Poll::Ready(Ok(received)) => {
                self.record_received(received, poll);
                poll.transport_pending = self.reader.is_exhausted();
                self.budget.count_read();
                poll.yields = self.budget.poll_proceed(cx).is_pending();
                Step::Repeat
            }
            Poll::Ready(Err(error)) => match self.read_failed(error, poll) {
                Step::End => Step::End,
                _ => Step::Repeat,
            },
            Poll::Pending if poll.flush_delayed => {
                // The transport had announced more input, and the flush was delayed for it.
                poll.transport_pending = true;
                Step::Repeat
            }
            Poll::Pending => {
                self.reader.shrink_if_idle();
                Step::Next
            }
        }
    }

    /// Returns `true` if the transport has more input, and the session has room for the replies.
    #[inline]
    fn has_more_input(&self, poll: &PollState) -> bool {
        self.wire.transport().has_more()
            && self.phase == Phase::Running
            && !self.watermark.stops_handling()
            && !poll.yields
            && !poll.transport_pending
            && self.reader.wants_more()
    }

    /// Returns `true` if messages are decoded and handled.
    #[inline]
    const fn handles(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Receiving)
    }

    /// Returns `true` until the session fails or begins to close.
    #[inline]
    const fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Opening | Phase::Running | Phase::Upgrading
        )
    }

    /// Returns `true` if a close was requested.
    #[inline]
    fn is_closing(&mut self) -> bool {
        self.wire.driver().handle().is_closing()
    }

    fn close_because(&mut self, reason: CloseReason, source: impl Into<tower::BoxError>) {
        self.session()
            .close_with(Close::new(reason).with_source(source));
    }
}
