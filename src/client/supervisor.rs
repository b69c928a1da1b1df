//! Task of a client: dials, runs the hooks, observes ends, pauses, and dials again.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use getty_core::{Panic, Session, hooks::Contained, internal::log};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    ClientState, Decision, Ended, Failure,
    attempts::Attempts,
    builder::Settings,
    members::{End, Lost, Members},
    pool::Pool,
};
use crate::connect::{OpenError, OwnedTask};

/// Function that dials and opens one session, and registers its task.
pub(super) type Dial<Out> = Contained<Box<dyn FnMut(&TaskTracker) -> Dialling<Out> + Send>>;

type Dialling<Out> = BoxFuture<'static, Result<(Session<Out>, OwnedTask), OpenError>>;

/// Time after the drain deadline before sessions are aborted. Sessions end by themselves at the
/// deadline and record the reason.
const GRACE: Duration = Duration::from_millis(100);

/// Number of the failed attempt in a row that is logged as a warning. A server that restarts
/// often causes one or two.
const WARNED_ATTEMPT: u32 = 3;

pub(super) struct Supervisor<Out: Send + 'static> {
    settings: Settings<Out>,
    dial: Dial<Out>,
    pool: Arc<Pool<Out>>,
    states: watch::Sender<ClientState>,
    stop: CancellationToken,
    /// Current attempt, at most one at a time.
    attempt: Option<BoxFuture<'static, Step<Out>>>,
    /// Deadline of the current attempt.
    deadline: Option<Instant>,
    attempts: Attempts,
    members: Members<Out>,
    /// Tasks of all sessions, including those whose attempt was given up before they were open
    /// (design.md: Why does a client count the tasks of its sessions?).
    tasks: TaskTracker,
    /// Number of sessions that were offered.
    generation: u64,
    // Must be declared last: its drop signals that the fields above are dropped.
    _done: DropGuard,
}

/// Completed step of an attempt.
enum Step<Out> {
    Opened(Result<(Session<Out>, OwnedTask), Ended>),
    Prepared(Result<(), Ended>),
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
        states: watch::Sender<ClientState>,
        stop: CancellationToken,
        done: DropGuard,
    ) -> Self {
        Self {
            attempts: Attempts::new(settings.backoff),
            settings,
            dial,
            pool,
            states,
            stop,
            attempt: None,
            deadline: None,
            members: Members::new(),
            tasks: TaskTracker::new(),
            generation: 0,
            _done: done,
        }
    }

    pub(super) async fn run(mut self) {
        let last = loop {
            if let Err(panic) = self.begin_attempt() {
                break ClientState::Failed(Failure::Panicked(panic));
            }
            self.publish();
            let handled = match self.next().await {
                Event::Stop => break ClientState::Stopped,
                Event::Due => Ok(()),
                Event::End(end) => self.handle_end(end),
                Event::Step(Ok(step)) => self.stepped(step),
                Event::Step(Err(panic)) => Err(Failure::Panicked(panic)),
            };
            if let Err(why) = handled {
                log(|| tracing::warn!(error = &why as &dyn std::error::Error, "client gave up"));
                break ClientState::Failed(why);
            }
        };
        self.finish(last).await;
    }

    /// Begins the next attempt if it is due.
    fn begin_attempt(&mut self) -> Result<(), Panic> {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        self.attempts.begin();
        self.deadline = Instant::now().checked_add(self.settings.attempt_timeout);
        let opening = Panic::catch(|| (self.dial)(&self.tasks))?;
        let deadline = self.deadline;
        let opened = async move {
            let opened = within(deadline, opening).await.ok_or(Ended::TimedOut)?;
            opened.map_err(Ended::Open)
        };
        self.attempt = Some(opened.map(Step::Opened).boxed());
        Ok(())
    }

    /// Returns the time of the next attempt, if a session is missing and no attempt is in progress.
    fn due(&self) -> Option<Instant> {
        let missing = self.attempt.is_none() && self.members.count() < self.settings.sessions;
        missing.then_some(self.attempts.not_before())
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
            if let Poll::Ready(end) = self.members.poll_end(cx) {
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
            Step::Opened(Err(ended)) => self.handle_failure(ended),
            Step::Prepared(Ok(())) => {
                self.offer();
                Ok(())
            }
            Step::Prepared(Err(ended)) => {
                self.members.reject();
                self.handle_failure(ended)
            }
        }
    }

    /// Adds a session that was just opened, and starts its hooks.
    fn admit(&mut self, session: Session<Out>, task: OwnedTask) {
        let attempt = self.attempts.last();
        self.members.admit(attempt, session.clone(), task);
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

    fn offer(&mut self) {
        if let Some(session) = self.members.offer() {
            log(|| tracing::debug!(connection = %session, "client offers a session"));
            self.generation += 1;
            self.pool.offer(self.members.to_offer());
        }
    }

    fn handle_failure(&mut self, ended: Ended) -> Result<(), Failure> {
        self.attempts.record_loss(self.attempts.last(), None);
        self.apply_policy(ended)
    }

    fn handle_end(&mut self, end: End) -> Result<(), Failure> {
        let lost = match end {
            End::Finished(attempt, task) => self.members.finished(attempt, task),
            End::Closing(attempt, task) => self.members.closing(attempt, task),
            End::Closed(attempt, closed) => {
                return match self.members.remove(attempt) {
                    true => self.apply_policy(Ended::Closed(closed)),
                    false => Ok(()),
                };
            }
        };
        if let Some(Lost { attempt, lived }) = lost {
            if lived.is_none() {
                // The attempt has reached the hooks, but its session is lost.
                self.drop_attempt();
            }
            self.pool.offer(self.members.to_offer());
            self.attempts.record_loss(attempt, lived);
        }
        Ok(())
    }

    /// Decides whether the client continues after `ended`.
    fn apply_policy(&mut self, ended: Ended) -> Result<(), Failure> {
        let failed_attempts = self.attempts.failed_attempts();
        log(|| {
            tracing::debug!(
                error = &ended as &dyn std::error::Error,
                failed_attempts,
                "client lost a session or failed to open one"
            );
        });
        if let Ended::Open(OpenError::NoLink) = ended {
            return Err(Failure::NoLink);
        }
        let decision =
            Panic::catch(|| (self.settings.retry_policy)(&ended)).map_err(Failure::Panicked)?;
        if decision == Decision::Stop {
            return Err(Failure::Stopped(Arc::new(ended)));
        }
        let attempts = failed_attempts;
        if attempts >= self.settings.max_attempts && !self.members.is_open() {
            return Err(Failure::Attempts {
                attempts,
                last: Arc::new(ended),
            });
        }
        if failed_attempts == WARNED_ATTEMPT && !self.members.is_open() {
            log(|| {
                tracing::warn!(
                    error = &ended as &dyn std::error::Error,
                    failed_attempts,
                    "client has no session and continues to try"
                );
            });
        }
        Ok(())
    }

    fn publish(&self) {
        let state = if self.members.is_open() {
            ClientState::Open(self.generation)
        } else {
            self.due()
                .map_or(ClientState::Connecting, ClientState::Waiting)
        };
        self.set_state(state);
    }

    fn set_state(&self, state: ClientState) {
        self.states.send_if_modified(|old| {
            let differs = !old.is_same(&state);
            if differs {
                *old = state;
            }
            differs
        });
    }

    /// Publishes the final state and ends all sessions.
    async fn finish(mut self, last: ClientState) {
        self.pool.close();
        self.set_state(last);
        self.drop_attempt();
        let deadline = self.settings.drain_deadline;
        self.members.close(deadline);
        let limit = deadline.saturating_add(GRACE);
        if timeout(limit, self.drain()).await.is_err() {
            self.members.abort();
            // A layer may have spawned a task that does not end. The client does not wait for it
            // further.
            let _ = timeout(GRACE, self.drain()).await;
        }
    }

    /// Waits until all sessions have ended and their tasks are dropped.
    async fn drain(&mut self) {
        self.members.drain().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Drops the current attempt. A panic of the application's code is logged.
    fn drop_attempt(&mut self) {
        let attempt = self.attempt.take();
        if let Err(panic) = Panic::catch(|| drop(attempt)) {
            log(|| tracing::error!(%panic, "an attempt of a client panicked while it was dropped"));
        }
    }
}

impl<Out: Send + 'static> Drop for Supervisor<Out> {
    /// Publishes a final state if the task did not, so that no waiter waits forever.
    fn drop(&mut self) {
        self.drop_attempt();
        if self.states.borrow().is_final() {
            return;
        }
        self.pool.close();
        self.set_state(if std::thread::panicking() {
            ClientState::Failed(Failure::Panicked(Panic::from_payload(
                &"the task of the client panicked",
            )))
        } else {
            ClientState::Stopped
        });
    }
}

/// Runs `future` until `deadline`. `None` is no deadline.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Polls code of the application and catches its panic.
fn poll_caught<T>(
    cx: &mut Context<'_>,
    future: &mut BoxFuture<'static, T>,
) -> Poll<Result<T, Panic>> {
    match Panic::catch(|| future.poll_unpin(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}
