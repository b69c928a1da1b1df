//! The task of a client: dials, prepares, watches, waits, and dials again.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use getty_layers::{CloseReason, Closed, ConnectionHandle, Panic, Session};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Decision, Ended, Failure, State, backoff::Pauses, builder::Settings, pool::Pool};
use crate::connect::{OpenError, OwnedTask};

/// Dials and opens one session.
pub(super) type Dial<Out> =
    Box<dyn FnMut() -> BoxFuture<'static, Result<(Session<Out>, OwnedTask), OpenError>> + Send>;

/// Sessions end themselves at the drain deadline, each with a record that says so. What is still there so much later does
/// not listen, and is aborted.
const GRACE: Duration = Duration::from_millis(100);

/// What a pause that no clock can count comes to: a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) struct Supervisor<Out: Send + 'static> {
    settings: Settings<Out>,
    dial: Dial<Out>,
    pool: Arc<Pool<Out>>,
    states: watch::Sender<State>,
    stop: CancellationToken,
    pauses: Pauses,
    /// The one attempt that is made at a time.
    attempt: Option<BoxFuture<'static, Step<Out>>>,
    /// When the attempt has used up its time.
    deadline: Option<Instant>,
    /// Those that are not closed yet, in the order in which they were opened.
    sessions: Vec<Member<Out>>,
    ends: FuturesUnordered<BoxFuture<'static, End>>,
    /// How many attempts were begun.
    attempts: u64,
    /// How many of them at the time of the last failure or loss.
    attempts_at_loss: u64,
    /// How many in a row have failed.
    failures: u32,
    not_before: Instant,
    /// How many sessions were offered.
    generation: u64,
    // last: it tells that all of the above is gone
    _done: DropGuard,
}

/// A session that is not closed yet.
struct Member<Out> {
    /// The number of the attempt that opened it.
    attempt: u64,
    session: Session<Out>,
    task: AbortHandle,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Its hooks run.
    Preparing,
    /// It may be picked, since then.
    Offered(Instant),
    /// A hook has failed, which was judged already: its end is no news.
    Rejected,
    /// Its peer has ended its direction, and handlers work on what had come before. No deadline holds for them, so that
    /// it is not waited for: the peer is gone, and with it the reason to have one session less.
    Finished,
    /// It is closing.
    Leaving,
}

/// What an attempt has come to.
enum Step<Out> {
    Opened(Result<(Session<Out>, OwnedTask), Ended>),
    Prepared(Result<(), Ended>),
}

/// The steps in which a session ends, each with the number of its attempt.
enum End {
    Finished(u64, OwnedTask),
    Closing(u64, OwnedTask),
    Closed(u64, Closed),
}

enum Event<Out> {
    Stop,
    Due,
    End(End),
    Step(Result<Step<Out>, Panic>),
}

impl<Out: Send + 'static> Supervisor<Out> {
    pub(super) fn new(
        settings: Settings<Out>,
        dial: Dial<Out>,
        pool: Arc<Pool<Out>>,
        states: watch::Sender<State>,
        stop: CancellationToken,
        done: DropGuard,
    ) -> Self {
        Self {
            pauses: Pauses::new(settings.backoff),
            settings,
            dial,
            pool,
            states,
            stop,
            attempt: None,
            deadline: None,
            sessions: Vec::new(),
            ends: FuturesUnordered::new(),
            attempts: 0,
            attempts_at_loss: 0,
            failures: 0,
            not_before: Instant::now(),
            generation: 0,
            _done: done,
        }
    }

    pub(super) async fn run(mut self) {
        let last = loop {
            if let Err(panic) = self.begin_attempt() {
                break State::Failed(Failure::Panicked(panic));
            }
            self.publish();
            let handled = match self.next().await {
                Event::Stop => break State::Stopped,
                Event::Due => Ok(()),
                Event::End(end) => self.ended(end),
                Event::Step(Ok(step)) => self.stepped(step),
                Event::Step(Err(panic)) => Err(Failure::Panicked(panic)),
            };
            if let Err(why) = handled {
                tracing::warn!(error = &why as &dyn std::error::Error, "a client gives up");
                break State::Failed(why);
            }
        };
        self.finish(last).await;
    }

    /// Begins the next attempt, if there is to be one and it is due.
    fn begin_attempt(&mut self) -> Result<(), Panic> {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        self.attempts += 1;
        self.deadline = Instant::now().checked_add(self.settings.attempt_timeout);
        let opening = Panic::catch(|| (self.dial)())?;
        let deadline = self.deadline;
        let opened = async move {
            let opened = within(deadline, opening).await.ok_or(Ended::TimedOut)?;
            opened.map_err(Ended::Open)
        };
        self.attempt = Some(opened.map(Step::Opened).boxed());
        Ok(())
    }

    /// When the next attempt is due, if a session is missing and none is being opened.
    fn due(&self) -> Option<Instant> {
        let there = self.sessions.iter();
        let there = there.filter(|member| !matches!(member.phase, Phase::Finished));
        let missing = self.attempt.is_none() && there.count() < self.settings.sessions;
        missing.then_some(self.not_before)
    }

    async fn next(&mut self) -> Event<Out> {
        let due = self.due();
        let mut due = pin!(async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        });
        let stop = self.stop.clone();
        let mut stop = pin!(stop.cancelled());
        poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            if let Poll::Ready(Some(end)) = self.ends.poll_next_unpin(cx) {
                return Poll::Ready(Event::End(end));
            }
            if let Some(attempt) = &mut self.attempt
                && let Poll::Ready(step) = poll_caught(cx, attempt)
            {
                self.drop_attempt();
                return Poll::Ready(Event::Step(step));
            }
            due.as_mut().poll(cx).map(|()| Event::Due)
        })
        .await
    }

    fn stepped(&mut self, step: Step<Out>) -> Result<(), Failure> {
        match step {
            Step::Opened(Ok((session, task))) => {
                self.admit(session, task);
                Ok(())
            }
            Step::Opened(Err(ended)) => {
                self.note_loss(self.attempts, None);
                self.judge(ended)
            }
            Step::Prepared(Ok(())) => {
                self.offer();
                Ok(())
            }
            Step::Prepared(Err(ended)) => {
                if let Some(member) = self.preparing() {
                    member.phase = Phase::Rejected;
                    member.session.close();
                }
                self.note_loss(self.attempts, None);
                self.judge(ended)
            }
        }
    }

    /// Watches a session that was just opened, and has the hooks prepare it.
    fn admit(&mut self, session: Session<Out>, task: OwnedTask) {
        let attempt = self.attempts;
        self.sessions.push(Member {
            attempt,
            session: session.clone(),
            task: task.abort_handle(),
            phase: Phase::Preparing,
        });
        let handle = session.handle().clone();
        self.ends.push(
            async move {
                handle.peer_finished().await;
                if handle.is_closing() {
                    End::Closing(attempt, task)
                } else {
                    End::Finished(attempt, task)
                }
            }
            .boxed(),
        );
        if self.settings.hooks.is_empty() {
            return self.offer();
        }
        let hooks = self.settings.hooks.clone();
        let deadline = self.deadline;
        let prepared = async move {
            let all = async {
                for hook in hooks {
                    hook(session.clone()).await.map_err(Ended::Hook)?;
                }
                Ok(())
            };
            within(deadline, all).await.unwrap_or(Err(Ended::TimedOut))
        };
        self.attempt = Some(prepared.map(Step::Prepared).boxed());
    }

    /// The session whose hooks run, or ran just now.
    fn preparing(&mut self) -> Option<&mut Member<Out>> {
        self.sessions
            .iter_mut()
            .find(|member| matches!(member.phase, Phase::Preparing))
    }

    fn offer(&mut self) {
        let Some(member) = self.preparing() else {
            return;
        };
        member.phase = Phase::Offered(Instant::now());
        tracing::debug!(session = %member.session, "a client has a session");
        self.generation += 1;
        self.update_pool();
    }

    fn ended(&mut self, end: End) -> Result<(), Failure> {
        match end {
            End::Finished(attempt, task) => {
                if let Some(handle) = self.leave(attempt, Phase::Finished) {
                    let closing = async move {
                        handle.closing().await;
                        End::Closing(attempt, task)
                    };
                    self.ends.push(closing.boxed());
                }
                Ok(())
            }
            End::Closing(attempt, task) => {
                if let Some(handle) = self.leave(attempt, Phase::Leaving) {
                    let closed = async move {
                        // how the session ended is in its record; this is what went wrong around it
                        if let Err(error) = task.await {
                            tracing::debug!(%error, "a session's task ended early");
                        }
                        End::Closed(attempt, handle.closed().await)
                    };
                    self.ends.push(closed.boxed());
                }
                Ok(())
            }
            End::Closed(attempt, closed) => {
                let place = self.place(attempt);
                match place.map(|place| self.sessions.remove(place).phase) {
                    Some(Phase::Rejected) | None => Ok(()),
                    Some(_) => self.judge(Ended::Closed(closed)),
                }
            }
        }
    }

    fn place(&self, attempt: u64) -> Option<usize> {
        self.sessions
            .iter()
            .position(|member| member.attempt == attempt)
    }

    /// A session is on its way out: it is not offered any more, and from now on in `phase`, unless its end is no news.
    fn leave(&mut self, attempt: u64, phase: Phase) -> Option<ConnectionHandle> {
        let place = self.place(attempt)?;
        let member = &mut self.sessions[place];
        let handle = member.session.handle().clone();
        let lived = match member.phase {
            Phase::Rejected => return Some(handle),
            Phase::Finished | Phase::Leaving => {
                member.phase = phase;
                return Some(handle);
            }
            Phase::Preparing => None,
            Phase::Offered(since) => Some(since.elapsed()),
        };
        member.phase = phase;
        if lived.is_none() {
            // the attempt has come to its hooks, and there is nothing for them to prepare any more
            self.drop_attempt();
        }
        self.update_pool();
        self.note_loss(attempt, lived);
        Some(handle)
    }

    /// Counts a failed attempt, or the end of a session that had lived so long, and sets the time of the next attempt.
    fn note_loss(&mut self, attempt: u64, lived: Option<Duration>) {
        // of what had begun before the last loss the same cause is the likely one: a server that goes takes a whole pool
        // with it, and that is one failure
        let is_news = attempt > self.attempts_at_loss;
        self.attempts_at_loss = self.attempts;
        if is_news {
            let settled = lived.is_some_and(|lived| lived >= self.settings.backoff.settled_after());
            self.failures = if settled {
                0
            } else {
                self.failures.saturating_add(1)
            };
        }
        let now = Instant::now();
        // otherwise the pause is under way: nothing that began since then has come to its end
        if self.not_before <= now {
            let pause = self.pauses.after(self.failures);
            self.not_before = now.checked_add(pause).unwrap_or(now + FOR_EVER);
        }
    }

    /// Whether to go on.
    fn judge(&mut self, ended: Ended) -> Result<(), Failure> {
        tracing::debug!(
            error = &ended as &dyn std::error::Error,
            failures = self.failures,
            "a client lost a session, or did not get one"
        );
        if let Ended::Open(OpenError::NoLink) = ended {
            return Err(Failure::NoLink);
        }
        let decision =
            Panic::catch(|| (self.settings.decision)(&ended)).map_err(Failure::Panicked)?;
        if decision == Decision::Stop {
            return Err(Failure::Decided(Arc::new(ended)));
        }
        if self.failures >= self.settings.max_attempts && !self.is_open() {
            return Err(Failure::Attempts {
                attempts: self.failures,
                last: Arc::new(ended),
            });
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.sessions
            .iter()
            .any(|member| matches!(member.phase, Phase::Offered(_)))
    }

    fn update_pool(&self) {
        let offered = self
            .sessions
            .iter()
            .filter_map(|member| match member.phase {
                Phase::Offered(_) => Some(member.session.clone()),
                _ => None,
            });
        self.pool.offer(offered.collect());
    }

    fn publish(&self) {
        let state = if self.is_open() {
            State::Open(self.generation)
        } else if self.due().is_none() {
            State::Connecting
        } else {
            State::Waiting(self.not_before)
        };
        self.set_state(state);
    }

    fn set_state(&self, state: State) {
        self.states.send_if_modified(|old| {
            let differs = !old.is_same(&state);
            if differs {
                *old = state;
            }
            differs
        });
    }

    /// Says the last word, and ends all sessions.
    async fn finish(mut self, last: State) {
        self.pool.close();
        self.set_state(last);
        self.drop_attempt();
        let deadline = self.settings.drain_deadline;
        for member in &mut self.sessions {
            // how they end is no news any more
            member.phase = Phase::Rejected;
            member.session.close_within(CloseReason::Local, deadline);
        }
        let limit = deadline.saturating_add(GRACE);
        if timeout(limit, self.drain()).await.is_err() {
            for member in &self.sessions {
                member.task.abort();
            }
            // what goes on in a task that a layer has spawned is that layer's
            let _ = timeout(GRACE, self.drain()).await;
        }
    }

    async fn drain(&mut self) {
        while let Some(end) = self.ends.next().await {
            let _ = self.ended(end);
        }
    }

    /// What is dropped is the application's code: its panic goes no further.
    fn drop_attempt(&mut self) {
        let attempt = self.attempt.take();
        if let Err(panic) = Panic::catch(|| drop(attempt)) {
            tracing::error!(%panic, "dropping a client's attempt panicked");
        }
    }
}

impl<Out: Send + 'static> Drop for Supervisor<Out> {
    /// Where the end was not orderly, those who wait are not to wait for ever.
    fn drop(&mut self) {
        if self.states.borrow().is_final() {
            return;
        }
        self.pool.close();
        self.set_state(if std::thread::panicking() {
            State::Failed(Failure::Panicked(Panic::from_payload(
                &"the client's task panicked",
            )))
        } else {
            State::Stopped
        });
    }
}

/// Gives `future` until `deadline`; without one, for ever.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Polls code of the application's, and catches its panic.
fn poll_caught<T>(
    cx: &mut Context<'_>,
    future: &mut BoxFuture<'static, T>,
) -> Poll<Result<T, Panic>> {
    match Panic::catch(|| future.poll_unpin(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}
