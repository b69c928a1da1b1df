//! The session loop: one future a session, which reads, calls, writes and closes.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_layers::{
    CloseReason, Closed, DrainDeadlineExceeded, IntoReply, Panic, Reply, Request, Session,
    driver::Lease,
};
use pin_project_lite::pin_project;
use tokio::{task::coop, time::Instant};
use tower::{BoxError, Service};

use super::{
    calls::Calls,
    clock::Clock,
    config::Config,
    queue::Queue,
    read::{Decoded, Reader},
    renew::Renew,
    timer::Timer,
    wire::Wire,
    write::Writer,
};
use crate::transport::Received;

/// So many messages cost one unit of tokio's cooperative budget, of which a task has 128 a turn.
const MESSAGES_A_UNIT: u32 = 32;
/// A read counts as so many messages: a transport may bring bytes for ever that make no message.
const READ_COST: u32 = 8;
/// At most so many reads empty the kernel's buffer after the end, so that closing does not reset the connection and
/// destroy what we sent last.
const LAST_READS: usize = 16;

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
        lease: Option<Lease>,
    }
}

struct State<S, W: Wire, R> {
    // first, so that on a drop the transport goes before senders learn it from the driver, which is its last part
    wire: W,
    /// None once the session closes: a service that nobody calls any more may wait in the queue of a shared limit.
    service: Option<S>,
    renew: R,
    config: Arc<Config>,
    phase: Phase,
    reader: Reader,
    writer: Writer,
    /// Decoded, and waiting for the service to be ready.
    next: Option<W::In>,
    /// Finished, and waiting for the write buffer to drain.
    replies: Queue<Reply<W::Out>>,
    timer: Timer,
    /// The write buffer went above the high watermark and is not below the low one yet.
    blocked: bool,
    /// Bad messages are skipped and counted; otherwise they close the session.
    skip_bad: bool,
    /// What the handle says: whether the transport is read, whether a frame is incomplete, and whether nothing of what
    /// waits can be written.
    reads: bool,
    incomplete: bool,
    /// Messages that were decoded and are not counted yet.
    messages_in: u32,
    stalled: bool,
    steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Writes; a layer holds the session back from reading.
    Opening,
    /// Reads, calls, writes.
    Running,
    /// Reads no more; handlers in flight finish, and what was accepted for sending is encoded.
    Draining,
    /// Only what is encoded is flushed: after a panic.
    Flushing,
    /// The transport is closed the way its protocol wants.
    Closing,
}

/// What has said in this turn that it will wake us, and so is not polled again in it.
#[derive(Default)]
struct Turn {
    clock: Clock,
    service_waits: bool,
    calls_wait: bool,
    /// The budget is used up: others first.
    yields: bool,
    /// A message was decoded in this turn.
    decoded: bool,
}

/// Why the loop over ready messages stopped.
enum Stop<In, Out, E> {
    /// There is no message.
    Decoded(Result<Decoded<In>, BoxError>),
    ServiceWaits,
    ServiceFailed(BoxError),
    CallWaits,
    CallFailed(E),
    /// A reply of more than one message, or one that others' messages go before.
    Reply(Reply<Out>),
    EncodeFailed(BoxError),
    /// The write buffer is above the high watermark.
    Blocked,
    /// Others may have waited long enough.
    Budget,
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
        service: S,
        renew: R,
        mut wire: W,
        lease: Lease,
        config: Arc<Config>,
    ) -> Self {
        wire.driver().set_queue_capacity(config.queue);
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
                next: None,
                replies: Queue::new(),
                timer: Timer::default(),
                blocked: false,
                skip_bad: config.skips_bad(framing),
                reads: false,
                incomplete: false,
                messages_in: 0,
                stalled: false,
                steps: 0,
                wire,
                service: Some(service),
                renew,
                config,
            }),
            lease: Some(lease),
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
                    let flushing = matches!(state.phase, Phase::Flushing | Phase::Closing);
                    state.close_because(CloseReason::Panicked, panic);
                    if flushing {
                        break; // what is left is what panics
                    }
                    state.writer.repair();
                    state.count_messages(&mut Turn::default());
                    quietly(|| state.stop_reading(Phase::Flushing, &mut Clock::default()));
                    quietly(|| this.calls.as_mut().clear());
                }
            }
        }
        quietly(|| this.calls.as_mut().clear());
        quietly(|| *this.state = None);
        match this.lease.take() {
            Some(lease) => Poll::Ready(Ok(lease.finish())),
            None => unreachable!("the lease goes with the state"),
        }
    }
}

/// Drops the user's values; one that panics in its destructor does not keep the session from its end.
fn quietly(f: impl FnOnce()) {
    if let Err(panic) = Panic::catch(f) {
        tracing::error!(%panic, "a destructor panicked at the end of a session");
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
        lease: &mut Option<Lease>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut turn = Turn::default();
        self.wire.driver().turn(cx);
        loop {
            // one that is closed before it was open never is: whoever held it may have refused it
            if self.phase == Phase::Opening
                && !self.wire.driver().is_held()
                && !self.session().is_closing()
            {
                self.phase = Phase::Running;
                lease.iter_mut().for_each(Lease::open);
            }
            if self.is_live() && self.session().is_closing() {
                self.stop_reading(Phase::Draining, &mut turn.clock);
                if self.is_cut_short() {
                    return Poll::Ready(());
                }
            }
            if self.is_live() || self.phase == Phase::Draining {
                self.exchange(calls.as_mut(), cx, &mut turn);
                self.count_messages(&mut turn);
                let driver = self.wire.driver();
                if driver.take_activity() {
                    driver.active(turn.clock.moment(driver));
                }
                if self.is_live() && self.session().is_closing() {
                    continue;
                }
            }
            if self.wire.driver().wants_ping()
                && self.phase != Phase::Closing
                && let Poll::Ready(Err(error)) = self.poll_ping(cx)
            {
                return self.transport_failed(error);
            }

            if let Poll::Ready(Err(error)) =
                self.writer
                    .poll_flush(&mut self.wire, cx, &mut turn.clock, &mut self.timer)
            {
                return self.transport_failed(error);
            }
            if self.blocked && self.writer.len() <= self.config.low {
                self.blocked = false;
                if self.wire.driver().settle(false) {
                    // a sender that waits goes first, or requests would take all the room each time there is some
                    turn.yields = true;
                    cx.waker().wake_by_ref();
                }
                continue;
            }
            self.wire.driver().settle(self.blocked);

            match self.phase {
                Phase::Running if self.reader.wants_more() && !turn.yields => {
                    match self.reader.poll_read(&mut self.wire, cx) {
                        Poll::Ready(Ok(received)) => {
                            self.received(received, &mut turn);
                            self.steps += READ_COST;
                            turn.yields = self.take_budget(cx).is_pending();
                            continue;
                        }
                        Poll::Ready(Err(error)) => return self.transport_failed(error),
                        Poll::Pending => self.reader.rest(),
                    }
                }
                Phase::Opening | Phase::Running => {}
                Phase::Draining => {
                    if calls.len() == 0 && self.replies.is_empty() && self.is_flushed() {
                        self.phase = Phase::Closing;
                        continue;
                    }
                }
                Phase::Flushing => {
                    if self.writer.is_flushed() {
                        self.phase = Phase::Closing;
                        continue;
                    }
                }
                Phase::Closing => {
                    if self.poll_close(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            self.mark(calls.len(), &mut turn);
            match self.poll_deadline(cx) {
                Next::Again => turn.clock = Clock::default(),
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(()),
            }
        }
    }

    /// From what has arrived to what is to be written: decodes, calls, encodes, until one of them has to wait.
    #[inline]
    fn exchange(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) {
        loop {
            // handlers go on whatever the peer reads
            while calls.len() > 0 && !turn.calls_wait {
                match calls.as_mut().poll_next(cx) {
                    Poll::Ready(Some(result)) => {
                        if let Some(reply) = self.finished(result) {
                            self.replies.push_back(reply);
                        }
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => turn.calls_wait = true,
                }
            }
            // what a handler has queued leaves before its reply
            self.wire.driver().look();
            if self.wire.driver().has_outgoing() {
                self.encode_outgoing();
            }
            while !self.blocked
                && let Some(reply) = self.replies.pop_front()
            {
                self.encode_reply(reply);
            }
            if self.blocked || turn.yields || self.phase != Phase::Running {
                return;
            }
            if self.session().is_closing() {
                return;
            }
            if calls.len() + self.replies.len() >= self.config.in_flight {
                return;
            }
            if !self.call_next(calls.as_mut(), cx, turn) {
                // all that the peer has sent is answered first, for as long as that takes
                if self.reader.is_finished() && self.next.is_none() && calls.len() == 0 {
                    self.session().close_with(CloseReason::PeerClosed);
                }
                return;
            }
        }
    }

    /// Calls the service, until something has to wait. `false` when there is nothing to call now.
    #[inline]
    fn call_next(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> bool {
        if turn.service_waits {
            return false;
        }
        match self.run(calls.as_mut(), cx) {
            Stop::Decoded(Ok(Decoded::Nothing)) => return false,
            Stop::Decoded(other) => return self.decode_failed(other).is_some(),
            Stop::ServiceWaits => {
                turn.service_waits = true;
                return false;
            }
            Stop::ServiceFailed(error) => {
                self.stack_failed(error);
                return false;
            }
            Stop::CallWaits => turn.calls_wait = calls.waits_alone(),
            Stop::CallFailed(error) => self.stack_failed(error),
            Stop::Reply(reply) => {
                let reply = self.check_reply(reply);
                if self.wire.driver().is_signalled() {
                    self.replies.push_back(reply);
                } else {
                    self.encode_rich_reply(reply);
                }
            }
            Stop::EncodeFailed(error) => self.encode_failed(error),
            Stop::Blocked => self.blocked = true,
            Stop::Budget => {}
        }
        turn.yields = self.take_budget(cx).is_pending();
        true
    }

    /// Calls the service with one message after another as long as nobody wants anything else of this session: the loop
    /// that decides what a message costs.
    #[inline]
    fn run(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
    ) -> Stop<W::In, W::Out, S::Error> {
        let Self {
            wire,
            reader,
            writer,
            next,
            messages_in,
            steps,
            ..
        } = self;
        let Some(service) = &mut self.service else {
            return Stop::ServiceWaits;
        };
        let high = self.config.high;
        loop {
            // decode first: a session without a message holds no permit
            let message = match next.take() {
                Some(message) => message,
                None => match reader.decode(wire) {
                    Ok(Decoded::Message(message)) => {
                        *messages_in += 1;
                        message
                    }
                    other => return Stop::Decoded(other),
                },
            };
            match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Stop::ServiceFailed(error.into()),
                Poll::Pending => {
                    *next = Some(message);
                    return Stop::ServiceWaits;
                }
            }
            let call = service.call(wire.driver().request(message));
            *steps += 1;
            let Poll::Ready(result) = calls.as_mut().start(cx, call) else {
                return Stop::CallWaits;
            };
            let message = match result.map(|response| response.into_reply().into_plain()) {
                Ok(Ok(message)) => message,
                Ok(Err(reply)) => return Stop::Reply(reply),
                Err(error) => return Stop::CallFailed(error),
            };
            // what a handler has queued leaves before its reply, and a close that it asked for stops us here
            if wire.driver().is_signalled() {
                return Stop::Reply(message.into_reply());
            }
            if let Some(message) = message
                && let Err(error) = writer.encode(wire, message)
            {
                return Stop::EncodeFailed(error);
            }
            if writer.len() > high {
                return Stop::Blocked;
            }
            if *steps >= MESSAGES_A_UNIT {
                return Stop::Budget;
            }
        }
    }

    #[cold]
    fn decode_failed(&mut self, decoded: Result<Decoded<W::In>, BoxError>) -> Option<()> {
        match decoded {
            Ok(Decoded::Bad(error)) if self.skip_bad => {
                self.skip(&*error);
                return Some(());
            }
            Ok(Decoded::Bad(error)) | Err(error) => self.close_because(CloseReason::Decode, error),
            Ok(_) => {} // the end, which closes the session once all is answered
        }
        None
    }

    /// A handler has finished: its reply, unless it failed and the session closes.
    fn finished(&mut self, result: Result<S::Response, S::Error>) -> Option<Reply<W::Out>> {
        match result {
            Ok(response) => Some(self.check_reply(response.into_reply())),
            Err(error) => {
                self.stack_failed(error);
                None
            }
        }
    }

    #[inline]
    fn check_reply(&mut self, reply: Reply<W::Out>) -> Reply<W::Out> {
        if reply.is_after_error() {
            self.renew();
        }
        reply
    }

    /// A stack that has failed may still wait in the queue of a shared limit.
    #[cold]
    fn renew(&mut self) {
        if self.service.is_some()
            && let Some(fresh) = self.renew.fresh()
        {
            self.service = Some(fresh);
        }
    }

    #[inline(never)]
    fn encode_outgoing(&mut self) {
        while !self.blocked && self.wire.driver().has_outgoing() {
            let Some(outgoing) = self.wire.driver().next_outgoing() else {
                return;
            };
            match (
                self.writer.encode(&mut self.wire, outgoing.message),
                outgoing.ticket,
            ) {
                (Ok(bytes), Some(ticket)) => self.writer.attend(ticket, bytes),
                (Ok(_), None) => {}
                (Err(error), Some(ticket)) => self.wire.driver().fail(&ticket, error.into()),
                (Err(error), None) => self.encode_failed(error),
            }
            self.blocked = self.writer.len() > self.config.high;
        }
    }

    #[inline]
    fn encode_reply(&mut self, reply: Reply<W::Out>) {
        match reply.into_plain() {
            Ok(None) => {}
            Ok(Some(message)) => {
                if let Err(error) = self.writer.encode(&mut self.wire, message) {
                    self.encode_failed(error);
                }
                self.blocked = self.writer.len() > self.config.high;
            }
            Err(reply) => self.encode_rich_reply(reply),
        }
    }

    #[inline(never)]
    fn encode_rich_reply(&mut self, reply: Reply<W::Out>) {
        let (messages, close) = reply.into_parts();
        for message in messages {
            if let Err(error) = self.writer.encode(&mut self.wire, message) {
                self.encode_failed(error);
                if !self.skip_bad {
                    break; // what comes after it is not to be taken for it
                }
            }
        }
        self.blocked = self.writer.len() > self.config.high;
        if let Some(reason) = close {
            self.session().close_with(reason);
        }
    }

    /// Nobody waits for the outcome of this message.
    #[cold]
    fn encode_failed(&mut self, error: BoxError) {
        if self.skip_bad {
            self.skip(&*error);
        } else {
            self.close_because(CloseReason::Encode, error);
        }
    }

    #[cold]
    fn skip(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::debug!(session = %self.session(), %error, "a message is skipped");
        self.wire.driver().skipped();
    }

    /// Counts what was decoded, and marks it as activity.
    #[inline]
    fn count_messages(&mut self, turn: &mut Turn) {
        if self.messages_in > 0 {
            let driver = self.wire.driver();
            let now = turn.clock.moment(driver);
            driver.messages_in(std::mem::take(&mut self.messages_in).into(), now);
            turn.decoded = true;
        }
    }

    #[inline]
    fn received(&mut self, received: Received, turn: &mut Turn) {
        match received {
            Received::Data(bytes) => {
                let driver = self.wire.driver();
                driver.received(bytes, turn.clock.moment(driver));
            }
            Received::Control(bytes) => {
                let driver = self.wire.driver();
                driver.received(bytes, turn.clock.moment(driver));
            }
            Received::End => self.wire.driver().peer_finished(),
        }
    }

    /// Keeps up what the handle says of reading and of handlers.
    #[inline]
    fn mark(&mut self, in_flight: usize, turn: &mut Turn) {
        self.wire.driver().in_flight(in_flight);
        let reads = self.phase == Phase::Running && self.reader.wants_more();
        if reads != self.reads {
            self.reads = reads;
            let driver = self.wire.driver();
            driver.reading(reads, turn.clock.moment(driver));
        }
        let incomplete = self.reader.is_incomplete();
        if incomplete != self.incomplete
            || (incomplete && (turn.decoded || !self.wire.driver().is_incomplete()))
        {
            self.incomplete = incomplete;
            let driver = self.wire.driver();
            let now = turn.clock.moment(driver);
            driver.incomplete(incomplete.then_some(now));
        }
        let stalled = self.timer.stalled_since();
        if stalled.is_some() != self.stalled {
            self.stalled = stalled.is_some();
            let driver = self.wire.driver();
            driver.stalled(stalled.map(|since| driver.moment(since)));
        }
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

    /// The first step of every close: nothing is read or decoded any more, and the rest has a deadline.
    #[cold]
    fn stop_reading(&mut self, phase: Phase, clock: &mut Clock) {
        self.phase = phase;
        let driver = self.wire.driver();
        driver.close_queue();
        let deadline = driver.requested_deadline();
        let deadline = deadline.unwrap_or(self.config.drain_deadline);
        self.timer.drain_until(|| clock.now().checked_add(deadline));
        self.reader.release();
        // last, for the destructors are the user's
        drop((self.next.take(), self.service.take()));
    }

    /// Whether nothing that is left to say can reach the peer.
    fn is_cut_short(&self) -> bool {
        matches!(
            self.session().reason(),
            Some(CloseReason::Io | CloseReason::WriteTimeout)
        )
    }

    /// Nothing waits to be encoded, and all that was encoded has left.
    fn is_flushed(&mut self) -> bool {
        !self.wire.driver().has_outgoing() && self.writer.is_flushed()
    }

    #[cold]
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reason = self.session().reason().unwrap_or(CloseReason::Dropped);
        match self.wire.poll_close(cx, &reason) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                tracing::debug!(session = %self.session(), %error, "closing the transport failed");
            }
        }
        for _ in 0..LAST_READS {
            if !self.reader.discard(&mut self.wire, cx) {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Waits for the earliest deadline, on the one timer.
    #[inline]
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Next {
        let live = self.is_live();
        let driver = self.wire.driver();
        let write_timeout = driver.write_timeout().unwrap_or(self.config.write_timeout);
        let check = if live { driver.next_check() } else { None };
        let stalled = self.timer.stalled_since().zip(write_timeout);
        let write = stalled.and_then(|(since, timeout)| since.checked_add(timeout));
        let Some(deadline) = check
            .into_iter()
            .chain(write)
            .chain(self.timer.drain_deadline())
            .min()
        else {
            self.timer.idle();
            return Next::Wait;
        };
        if self.timer.poll(cx, deadline).is_pending() {
            return Next::Wait;
        }
        self.deadline_passed(deadline, check, write)
    }

    #[cold]
    fn deadline_passed(
        &mut self,
        deadline: Instant,
        check: Option<Instant>,
        write: Option<Instant>,
    ) -> Next {
        if check == Some(deadline) {
            self.wire.driver().run_checks(Instant::now().max(deadline));
            return Next::Again;
        }
        if write == Some(deadline) {
            self.session().close_with(CloseReason::WriteTimeout);
        }
        if self.timer.drain_deadline().is_some() {
            let cut_off = Arc::new(DrainDeadlineExceeded);
            self.wire.driver().note_source(cut_off);
        }
        Next::End
    }

    /// Whether nothing has begun to close the session.
    #[inline]
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Running)
    }

    /// Ends the session at once: nothing that is left to say can reach the peer.
    #[cold]
    fn transport_failed(&mut self, error: io::Error) -> Poll<()> {
        if self.session().is_closing() {
            self.wire.driver().note_source(Arc::new(error));
        } else {
            self.close_because(CloseReason::Io, error);
        }
        Poll::Ready(())
    }

    /// The message stack returned an error, which may be a panic that a layer of it has caught.
    #[cold]
    fn stack_failed(&mut self, error: impl Into<BoxError>) {
        let error = error.into();
        let reason = if error.is::<Panic>() {
            CloseReason::Panicked
        } else {
            CloseReason::Handler
        };
        self.close_because(reason, error);
    }

    fn close_because(&mut self, reason: CloseReason, source: impl Into<BoxError>) {
        self.session().close_because(reason, source);
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
