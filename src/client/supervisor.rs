//! The task of a client: dials, prepares, watches, waits, and dials again.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use getty_core::{Panic, Session, driver::Contained};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Decision, Ended, Failure, State,
    attempts::Attempts,
    builder::Settings,
    members::{End, Lost, Members},
    pool::Pool,
};
use crate::connect::{OpenError, OwnedTask};

/// Dials and opens one session, whose task is entered in the list.
pub(super) type Dial<Out> = Contained<Box<dyn FnMut(&TaskTracker) -> Dialling<Out> + Send>>;

type Dialling<Out> = BoxFuture<'static, Result<(Session<Out>, OwnedTask), OpenError>>;

/// Sessions end themselves at the drain deadline, each with a record that says so. What is still there so much later does
/// not listen, and is aborted.
const GRACE: Duration = Duration::from_millis(100);

pub(super) struct Supervisor<Out: Send + 'static> {
    settings: Settings<Out>,
    dial: Dial<Out>,
    pool: Arc<Pool<Out>>,
    states: watch::Sender<State>,
    stop: CancellationToken,
    /// The one attempt that is made at a time.
    attempt: Option<BoxFuture<'static, Step<Out>>>,
    /// When the attempt has used up its time.
    deadline: Option<Instant>,
    attempts: Attempts,
    members: Members<Out>,
    /// The tasks of all sessions, also of those whose attempt was given up before they were open.
    tasks: TaskTracker,
    /// How many sessions were offered.
    generation: u64,
    // last: it tells that all of the above is gone
    _done: DropGuard,
}

/// What an attempt has come to.
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
        states: watch::Sender<State>,
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

    /// When the next attempt is due, if a session is missing and none is being opened.
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
            Step::Opened(Err(ended)) => self.failed(ended),
            Step::Prepared(Ok(())) => {
                self.offer();
                Ok(())
            }
            Step::Prepared(Err(ended)) => {
                self.members.reject();
                self.failed(ended)
            }
        }
    }

    /// Watches a session that was just opened, and has the hooks prepare it.
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
            tracing::debug!(%session, "a client has a session");
            self.generation += 1;
            self.pool.offer(self.members.to_offer());
        }
    }

    fn failed(&mut self, ended: Ended) -> Result<(), Failure> {
        self.attempts.note_loss(self.attempts.last(), None);
        self.judge(ended)
    }

    fn ended(&mut self, end: End) -> Result<(), Failure> {
        let lost = match end {
            End::Finished(attempt, task) => self.members.finished(attempt, task),
            End::Closing(attempt, task) => self.members.closing(attempt, task),
            End::Closed(attempt, closed) => {
                return match self.members.remove(attempt) {
                    true => self.judge(Ended::Closed(closed)),
                    false => Ok(()),
                };
            }
        };
        if let Some(Lost { attempt, lived }) = lost {
            if lived.is_none() {
                // the attempt has come to its hooks, and there is nothing for them to prepare any more
                self.drop_attempt();
            }
            self.pool.offer(self.members.to_offer());
            self.attempts.note_loss(attempt, lived);
        }
        Ok(())
    }

    /// Whether to go on.
    fn judge(&mut self, ended: Ended) -> Result<(), Failure> {
        tracing::debug!(
            error = &ended as &dyn std::error::Error,
            in_vain = self.attempts.in_vain(),
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
        let in_vain = self.attempts.in_vain();
        if in_vain >= self.settings.max_attempts && !self.members.is_open() {
            return Err(Failure::Attempts {
                attempts: in_vain,
                last: Arc::new(ended),
            });
        }
        Ok(())
    }

    fn publish(&self) {
        let state = if self.members.is_open() {
            State::Open(self.generation)
        } else {
            self.due().map_or(State::Connecting, State::Waiting)
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
        self.members.close(deadline);
        let limit = deadline.saturating_add(GRACE);
        if timeout(limit, self.drain()).await.is_err() {
            self.members.abort();
            // what goes on in a task that a layer has spawned is that layer's
            let _ = timeout(GRACE, self.drain()).await;
        }
    }

    /// Waits until nothing is left of any session.
    async fn drain(&mut self) {
        self.members.drain().await;
        self.tasks.close();
        self.tasks.wait().await;
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
        self.drop_attempt();
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
