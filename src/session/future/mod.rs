//! The session loop: one future a session, which reads, calls, writes and closes.

mod discard;
mod end;
mod exchange;
mod flow;
mod marks;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{
    CloseReason, Closed, DrainDeadlineExceeded, IntoReply, Panic, Reply, Request, Session,
    SharedError,
    driver::{DEFAULT_QUEUE_BYTES, Lease},
};
use pin_project_lite::pin_project;
use tokio::{task::coop, time::Instant};
use tower::{BoxError, Service};

use self::discard::discard;
pub(super) use self::discard::quietly;
use crate::transport::SendsNoMore;

pub(crate) use self::end::GOODBYE;
use super::{
    calls::Calls, clock::Clock, config::Config, queue::Queue, read::Reader, renew::Renew,
    timer::Timer, waiting::Waiting, wire::Wire, write::Writer,
};

/// So many messages cost one unit of tokio's cooperative budget, of which a task has 128 a turn.
const MESSAGES_A_UNIT: u32 = 32;
/// A read counts as so many messages: a transport may bring bytes for ever that make no message.
const READ_COST: u32 = 8;
/// So many bytes, read or to be written, count as a message: to move them takes as long.
const BYTES_A_MESSAGE: usize = 4096;

pin_project! {
    /// The life of one session: the future of the service that `SessionLayer` makes.
    ///
    /// It resolves to how the session ended. Dropped, it ends the session at once, as [`CloseReason::Dropped`].
    #[must_use = "futures do nothing unless polled"]
    pub struct SessionFuture<S, W, R>
    where
        S: Service<Request<W::In, W::Out>>,
        W: Wire,
    {
        #[pin]
        calls: Calls<S::Future>,
        // in this order: what the session consists of goes before the callbacks of the lease run
        state: Option<State<S, W, R>>,
        lease: Lease,
    }

    impl<S, W, R> PinnedDrop for SessionFuture<S, W, R>
    where
        S: Service<Request<W::In, W::Out>>,
        W: Wire,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            discard(this.calls, this.state);
        }
    }
}

struct State<S, W: Wire, R> {
    // first, so that on a drop the transport goes before senders learn it from the driver, which is its last part
    wire: W,
    /// `None` while it is made, and once the session closes: a service that is not called any more
    /// may wait in the queue of a shared limit.
    service: Option<S>,
    renew: R,
    config: Arc<Config>,
    phase: Phase,
    reader: Reader,
    writer: Writer,
    waiting: Waiting<W::In>,
    /// Finished, and waiting for the write buffer to drain.
    replies: Queue<Reply<W::Out>>,
    timer: Timer,
    finish: Finish,
    /// No further message is handled, because too many bytes of replies wait for the peer.
    replies_blocked: bool,
    /// No message is taken from the outbox, because too many bytes wait for the peer.
    pushes_blocked: bool,
    /// The drain deadline has passed, and only the transport's goodbye remains.
    overdue: bool,
    /// While lingering: the session waits until the peer ends its direction. Otherwise only input
    /// that has arrived is discarded.
    awaits_end: bool,
    /// Bad messages are skipped and counted; otherwise they close the session.
    skip_bad: bool,
    /// Messages that were decoded and are not counted yet.
    messages_in: u32,
    steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Writes; a layer holds the session back from reading.
    Opening,
    /// Reads, calls, writes.
    Running,
    /// The connection has failed. Input is still handled, and nothing is written.
    Receiving,
    /// Reads no more; handlers in flight finish, and what was accepted for sending is encoded.
    Draining,
    /// Only what is encoded is flushed: after a panic.
    Flushing,
    /// The transport is closed the way its protocol wants.
    Closing,
    /// Our direction has ended. Further input is discarded, so that the connection is not reset.
    Lingering,
}

/// How far our direction has come to its end, ahead of the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    No,
    /// Nothing is encoded any more, and it ends when all before has left.
    Asked,
    Done,
    /// The connection takes nothing more.
    Failed,
}

impl Finish {
    #[inline]
    const fn is_asked(self) -> bool {
        matches!(self, Self::Asked)
    }

    /// Whether messages may still be encoded.
    #[inline]
    const fn lets_send(self) -> bool {
        matches!(self, Self::No)
    }
}

/// What has said in this turn that it will wake us, and so is not polled again in it.
#[derive(Default)]
struct Turn {
    clock: Clock,
    service_waits: bool,
    calls_wait: bool,
    transport_waits: bool,
    /// The budget is used up: others first.
    yields: bool,
    /// The service was called, and not replaced since.
    called: bool,
    /// A message was decoded in this turn.
    decoded: bool,
    /// Encoded bytes were not flushed, because more are expected to leave with them.
    holds: bool,
}

/// What a turn does next.
enum Next {
    Again,
    Wait,
    End,
}

impl<S, W, R> SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>>,
    W: Wire,
{
    pub(super) fn new(
        service: Option<S>,
        renew: R,
        mut wire: W,
        lease: Lease,
        config: Arc<Config>,
    ) -> Self {
        wire.driver().set_queue_capacity(config.queue);
        if config.queue_bytes != DEFAULT_QUEUE_BYTES {
            wire.driver().set_queue_bytes(config.queue_bytes);
        }
        if let Some(budget) = &config.budget {
            wire.driver().set_memory_budget(budget.clone());
        }
        if wire.has_ping() {
            wire.driver().has_ping();
        }
        let framing = wire.framing();
        Self {
            calls: Calls::new(config.in_flight, config.ordered),
            state: Some(State {
                phase: Phase::Opening,
                reader: Reader::new(framing, wire.max_frame()),
                writer: Writer::new(framing),
                waiting: Waiting::new(),
                replies: Queue::new(),
                timer: Timer::default(),
                finish: Finish::No,
                replies_blocked: false,
                pushes_blocked: false,
                overdue: false,
                awaits_end: false,
                skip_bad: config.skips_bad(framing),
                messages_in: 0,
                steps: 0,
                wire,
                service,
                renew,
                config,
            }),
            lease,
        }
    }
}

impl<S, W, R> Future for SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    type Output = Result<Closed, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_end(cx, |closed, _| Ok(closed))
    }
}

impl<S, W, R> SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// Polls like the future itself, with a response made by `end`, whose flag is `true` if the
    /// session was open.
    #[inline(always)]
    pub(super) fn poll_end<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        end: impl FnOnce(Closed, bool) -> T,
    ) -> Poll<T> {
        let mut this = self.project();
        let Some(state) = this.state else {
            panic!("a session's future was polled after it was ready");
        };
        // one catch a turn: whatever panics, it ends this session alone, and not before its callbacks have run
        loop {
            match Panic::catch(|| state.turn(this.calls.as_mut(), this.lease, cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => break,
                Err(panic) => {
                    let flushing = state.phase >= Phase::Flushing;
                    state.close_because(CloseReason::Panicked, panic);
                    if flushing {
                        break; // what is left is what panics
                    }
                    state.writer.repair();
                    state.count_messages(&mut Turn::default());
                    quietly(|| state.stop_reading(Phase::Flushing, &mut Clock::default()));
                    state.wire.driver().unhandled(this.calls.len() as u64, 0);
                    this.calls.as_mut().clear();
                }
            }
        }
        discard(this.calls, this.state);
        let lease = this.lease.take();
        let was_open = lease.is_open();
        Poll::Ready(end(lease.finish(), was_open))
    }
}

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// Goes on until nothing can go on; ready when there is nothing left to do but to drop everything.
    fn turn(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        lease: &mut Lease,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut turn = Turn::default();
        let _current = self.wire.driver().enter();
        self.wire.driver().turn(cx);
        loop {
            if !self.is_at_rest(&calls) {
                match self.proceed(calls.as_mut(), lease, cx, &mut turn) {
                    Next::Again => continue,
                    Next::Wait => {}
                    Next::End => return Poll::Ready(()),
                }
            }
            match self.phase {
                Phase::Running | Phase::Receiving if turn.transport_waits => self.reader.rest(),
                Phase::Running | Phase::Receiving if self.reader.wants_more() && !turn.yields => {
                    match self.reader.poll_read(&mut self.wire, cx) {
                        Poll::Ready(Ok(received)) => {
                            self.received(received, &mut turn);
                            turn.transport_waits = self.reader.has_emptied();
                            self.steps += READ_COST;
                            turn.yields = self.take_budget(cx).is_pending();
                            continue;
                        }
                        Poll::Ready(Err(error)) => match self.read_failed(error, &mut turn) {
                            Next::End => return Poll::Ready(()),
                            _ => continue,
                        },
                        Poll::Pending if turn.holds => {
                            // the transport had announced more, and replies were held back for it
                            turn.transport_waits = true;
                            continue;
                        }
                        Poll::Pending => self.reader.rest(),
                    }
                }
                Phase::Opening | Phase::Running | Phase::Receiving => {}
                Phase::Draining => {
                    self.hurry(&mut turn.clock);
                    if self.is_flushed() {
                        self.begin_drain_deadline(&mut turn.clock);
                        if calls.is_empty() && self.replies.is_empty() {
                            if self.finish == Finish::Failed {
                                return Poll::Ready(());
                            }
                            self.phase = Phase::Closing;
                            continue;
                        }
                    } else {
                        self.discard_while_draining(cx);
                    }
                }
                Phase::Flushing => {
                    self.hurry(&mut turn.clock);
                    if self.writer.is_flushed() {
                        self.begin_drain_deadline(&mut turn.clock);
                        self.phase = Phase::Closing;
                        continue;
                    }
                    self.discard_while_draining(cx);
                }
                Phase::Closing => {
                    if self.poll_close(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Phase::Lingering => {
                    if self.poll_linger(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            self.release_readiness(&mut turn);
            let in_flight = if calls.is_empty() { 0 } else { calls.len() };
            self.mark(in_flight, &mut turn);
            match self.poll_deadline(calls.as_mut(), cx) {
                Next::Again => turn.clock = Clock::default(),
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(()),
            }
        }
    }

    /// Whether nothing but the transport could bring work. As a rule a turn begins so, and it is the transport that has
    /// some: then the way to it is short.
    #[inline]
    fn is_at_rest(&mut self, calls: &Calls<S::Future>) -> bool {
        !self.reader.is_decodable()
            && self.phase == Phase::Running
            && calls.is_empty()
            && self.writer.is_at_rest()
            && self.waiting.is_empty()
            && self.replies.is_empty()
            && !(self.replies_blocked | self.pushes_blocked)
            && !self.finish.is_asked()
            && !self.reader.is_finished()
            && self.wire.driver().is_at_rest()
    }

    /// Does what can be done before more is read: what was requested, what has arrived, what is to be written.
    #[inline]
    fn proceed(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        lease: &mut Lease,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> Next {
        // one that is closed before it was open never is: whoever held it may have refused it
        if self.phase == Phase::Opening
            && !self.is_being_made(cx, turn)
            && !self.wire.driver().is_held()
            && !self.is_closing()
        {
            self.phase = Phase::Running;
            lease.open();
        }
        if self.is_live() && self.is_closing() {
            self.stop_reading(Phase::Draining, &mut turn.clock);
            if self.is_cut_short() {
                return Next::End;
            }
        }
        if self.phase <= Phase::Draining {
            self.exchange(calls.as_mut(), cx, turn);
            self.count_messages(turn);
            let driver = self.wire.driver();
            if driver.take_activity() {
                driver.active(turn.clock.moment(driver));
            }
            if self.is_live() && self.is_closing() {
                return Next::Again;
            }
        }
        if self.finish == Finish::Failed {
            return self.proceed_without_output(&calls);
        }
        if self.wire.driver().wants_ping()
            && self.phase < Phase::Closing
            && let Poll::Ready(Err(error)) = self.poll_ping(cx)
        {
            return self.write_failed(error, turn);
        }

        // answers to what has arrived together leave together
        let held =
            self.reads_on(turn) || (self.config.flush_delay.is_some() && self.holds_back(turn));
        turn.holds = held;
        if !held
            && let Poll::Ready(Err(error)) =
                self.writer
                    .poll_flush(&mut self.wire, cx, &mut turn.clock, &mut self.timer)
        {
            if !SendsNoMore::is(&error) {
                return self.write_failed(error, turn);
            }
            let error: SharedError = Arc::new(error);
            self.writer.give_up(&mut self.wire, &error);
            return Next::Again;
        }
        if self.reader.is_in_bulk() && !held && self.writer.len() > 0 {
            // the peer does not take all that it is sent
            self.reader.end_bulk();
            return Next::Again;
        }
        if self.finish.is_asked()
            && self.writer.is_flushed()
            && let Poll::Ready(Err(error)) = self.poll_finish(cx)
        {
            return self.write_failed(error, turn);
        }
        if (self.replies_blocked | self.pushes_blocked || self.writer.len() > 0)
            && !held
            && self.unblock(cx, turn)
        {
            return Next::Again;
        }
        self.wire.driver().settle(self.pushes_blocked);
        self.wire.driver().charge_written(self.writer.len());
        Next::Wait
    }

    /// Returns the next step of a session whose connection accepts no more output.
    #[cold]
    fn proceed_without_output(&mut self, calls: &Calls<S::Future>) -> Next {
        let handled = self.waiting.is_empty() && self.reader.is_finished();
        if self.phase == Phase::Receiving && handled && calls.is_empty() {
            return Next::End;
        }
        if self.phase > Phase::Draining {
            return Next::End;
        }
        Next::Wait
    }

    /// Returns `true` while the message stack is made. The loop writes meanwhile, and runs checks
    /// and deadlines.
    #[inline]
    fn is_being_made(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> bool {
        turn.service_waits = turn.service_waits || self.renew.poll_make(&mut self.service, cx);
        turn.service_waits
    }

    #[cold]
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.poll_finish(cx))?;
        self.finish = Finish::Done;
        if let Some(ticket) = self.writer.take_end() {
            self.wire.driver().finished(&ticket);
        }
        Poll::Ready(Ok(()))
    }

    #[cold]
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.poll_ping(cx))?;
        self.wire.driver().pinged();
        self.writer.poke();
        Poll::Ready(Ok(()))
    }

    /// Takes part in tokio's cooperative scheduling whatever the transport does; pending when it is others' turn.
    #[inline]
    fn take_budget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.steps < MESSAGES_A_UNIT {
            return Poll::Ready(());
        }
        self.steps = 0;
        coop::poll_proceed(cx).map(|unit| unit.made_progress())
    }

    /// So many bytes have moved.
    #[inline]
    fn count_bytes(&mut self, bytes: usize) {
        let messages = u32::try_from(bytes / BYTES_A_MESSAGE).unwrap_or(u32::MAX);
        self.steps = self.steps.saturating_add(messages);
    }

    /// Whether the transport has another message at hand, and room for what may come of it.
    #[inline]
    fn reads_on(&self, turn: &Turn) -> bool {
        self.wire.has_more()
            && self.phase == Phase::Running
            && !self.replies_blocked
            && !turn.yields
            && !turn.transport_waits
            && self.reader.wants_more()
    }

    /// Waits for the earliest deadline, on the one timer.
    #[inline]
    fn poll_deadline(&mut self, calls: Pin<&mut Calls<S::Future>>, cx: &mut Context<'_>) -> Next {
        let live = self.is_live();
        let driver = self.wire.driver();
        let write_timeout = driver.write_timeout().unwrap_or(self.config.write_timeout);
        let check = if live { driver.next_check() } else { None };
        if check.is_none() && self.timer.is_unused() {
            return Next::Wait;
        }
        let stalled = self.timer.stalled_since();
        let write = stalled.zip(write_timeout);
        let write = write.and_then(|(since, timeout)| since.checked_add(timeout));
        let allowance = match stalled {
            Some(since) if self.replies_blocked => self.next_allowance(since),
            _ => None,
        };
        let Some(deadline) = check
            .into_iter()
            .chain(write)
            .chain(self.timer.drain_deadline())
            .chain(self.timer.held_until())
            .chain(allowance)
            .min()
        else {
            self.timer.idle();
            return Next::Wait;
        };
        if self.timer.poll(cx, deadline).is_pending() {
            return Next::Wait;
        }
        if allowance == Some(deadline) {
            self.timer.increase_allowance();
            return Next::Again;
        }
        self.deadline_passed(calls, deadline, check, write)
    }

    #[cold]
    fn deadline_passed(
        &mut self,
        calls: Pin<&mut Calls<S::Future>>,
        deadline: Instant,
        check: Option<Instant>,
        write: Option<Instant>,
    ) -> Next {
        if check == Some(deadline) {
            self.wire.driver().run_checks(Instant::now().max(deadline));
            return Next::Again;
        }
        if self.timer.held_until() == Some(deadline) {
            return Next::Again;
        }
        if write == Some(deadline) {
            self.session().close_with(CloseReason::WriteTimeout);
        }
        if self.timer.drain_deadline().is_some() && self.phase <= Phase::Closing {
            let cut_off = Arc::new(DrainDeadlineExceeded);
            self.wire.driver().note_source(cut_off);
        }
        if write != Some(deadline) && self.may_say_goodbye() {
            self.cut_off_handlers(calls);
            return Next::Again;
        }
        Next::End
    }

    /// Whether what was gathered waits for more to leave with it.
    #[cold]
    fn holds_back(&mut self, turn: &mut Turn) -> bool {
        if let Some(delay) = self.config.flush_delay
            && self.phase == Phase::Running
            && self.finish.lets_send()
            && !self.replies_blocked
            && !self.pushes_blocked
            && self.writer.can_wait(self.config.low)
            && self.timer.holds_back(delay, turn.clock.now())
        {
            return true;
        }
        self.timer.let_go();
        false
    }

    /// Returns `true` if messages are decoded and handled.
    #[inline]
    fn handles(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Receiving)
    }

    /// Whether nothing has begun to close the session.
    #[inline]
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Running)
    }

    /// Whether a close was requested.
    #[inline]
    fn is_closing(&mut self) -> bool {
        self.wire.driver().handle().is_closing()
    }

    #[inline]
    fn session(&self) -> &Session<W::Out> {
        self.wire.session()
    }
}

impl<S, W, R> fmt::Debug for SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>>,
    W: Wire,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SessionFuture");
        if let Some(state) = &self.state {
            debug
                .field("session", state.wire.session())
                .field("phase", &state.phase);
        }
        debug.finish_non_exhaustive()
    }
}
