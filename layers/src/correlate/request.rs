//! Asking: the handle to ask with, and the future of one request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use super::{
    error::{Left, RequestError},
    matching::Matching,
    table::{Limits, Outcome, Refused, Table},
};
use crate::{
    ConnectionHandle,
    connection::{CloseReason, Kept},
    session::{
        Next, Number, Refusal, Session, WaiterId, error::SendFailure, payload::Payload,
        signal::Signal,
    },
};

/// What the requests of one session share: an attribute of its handle.
pub(super) struct Shared<In, Out> {
    pub(super) table: Table<In>,
    matching: Arc<dyn Matching<In, Out>>,
    deadline: Option<Duration>,
}

impl<In, Out> Shared<In, Out> {
    pub(super) fn new(
        limits: Limits,
        matching: impl Matching<In, Out>,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            table: Table::new(limits),
            matching: Arc::new(matching),
            deadline,
        }
    }
}

impl<In: Send + 'static, Out: 'static> Shared<In, Out> {
    /// Has the driver tell of what it could not encode from the first request on: by the time that this is asked for, it may
    /// have been too late for that one.
    pub(super) fn guard(self: &Arc<Self>, handle: &ConnectionHandle) {
        self.table.guarded();
        handle.keep(InputGuard(Arc::clone(self)));
    }
}

/// Woken for a message that cannot be sent: whose it is, they all have to look.
impl<In: Send + 'static, Out: 'static> Wake for Shared<In, Out> {
    fn wake(self: Arc<Self>) {
        self.table.wake_all();
    }
}

/// Kept by the driver; its drop says that nothing more will be received.
struct InputGuard<In, Out>(Arc<Shared<In, Out>>);

impl<In: Send, Out> Kept for InputGuard<In, Out> {
    /// The peer does not answer what it was not asked. Known here before the next message is received, when the one who
    /// asked may not have looked, or have given up.
    fn refused(&mut self, number: Number) {
        self.0.table.refused(number);
    }
}

impl<In, Out> Drop for InputGuard<In, Out> {
    fn drop(&mut self) {
        self.0.table.input_ended();
    }
}

impl<Out: 'static> Session<Out> {
    /// Sends `message` as a request and waits for the peer's answer, which is of the type that the session receives. The
    /// stack needs a [`CorrelateLayer`](super::CorrelateLayer). A handler may ask its own peer: answers are taken before
    /// readiness, and while a request waits the session loop decodes past messages that wait for their handlers, up to its
    /// read-ahead bound; beyond that the deadline ends the wait.
    ///
    /// Not from a hook of [`OnOpenLayer`](crate::OnOpenLayer): while it runs nothing is received. Whoever asks often keeps
    /// a [`Caller`](super::Caller), which saves looking for the layer each time and fixes the type of the answer.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Where the message was not taken it is handed back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there was room in the queue it sends nothing. Dropped later, the message is sent all the same, and
    /// its answer is dropped and [counted](crate::Stats::late).
    pub fn request<In: Send + 'static>(&self, message: Out) -> Requesting<In, Out> {
        let shared = self.get::<Arc<Shared<In, Out>>>();
        Requesting::new(Asker::Session(self.clone(), shared), message)
    }
}

/// Asks the peer of one session: a [`Session`] of which it is known that its stack has a
/// [`CorrelateLayer`](super::CorrelateLayer) for answers of type `In`. Clonable, usable from any task. Scope: session.
pub struct Caller<In, Out = In>(Arc<Asking<In, Out>>);

/// Behind one count, which each request takes part in.
struct Asking<In, Out> {
    session: Session<Out>,
    shared: Arc<Shared<In, Out>>,
}

/// Whose request it is.
enum Asker<In, Out> {
    Caller(Arc<Asking<In, Out>>),
    Session(Session<Out>, Option<Arc<Shared<In, Out>>>),
}

impl<In, Out> Asker<In, Out> {
    #[inline]
    fn session(&self) -> &Session<Out> {
        match self {
            Self::Caller(asking) => &asking.session,
            Self::Session(session, _) => session,
        }
    }

    #[inline]
    fn shared(&self) -> Option<&Arc<Shared<In, Out>>> {
        match self {
            Self::Caller(asking) => Some(&asking.shared),
            Self::Session(_, shared) => shared.as_ref(),
        }
    }
}

impl<In: Send + 'static, Out: 'static> Caller<In, Out> {
    /// The caller of `session`; `None` where its stack has no [`CorrelateLayer`](super::CorrelateLayer) for answers of this
    /// type, or the session is closed.
    #[must_use]
    pub fn of(session: &Session<Out>) -> Option<Self> {
        Some(Self(Arc::new(Asking {
            session: session.clone(),
            shared: session.get()?,
        })))
    }

    /// As [`Session::request`].
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    ///
    /// # Cancel safety
    ///
    /// As that of [`Session::request`].
    pub fn request(&self, message: Out) -> Requesting<In, Out> {
        Requesting::new(Asker::Caller(Arc::clone(&self.0)), message)
    }
}

impl<In, Out> Caller<In, Out> {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session<Out> {
        &self.0.session
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.shared.table.in_flight()
    }

    /// Whether answers come in the order of their requests, instead of with ids.
    #[must_use]
    pub fn is_ordered(&self) -> bool
    where
        In: 'static,
        Out: 'static,
    {
        self.0.shared.matching.is_ordered()
    }

    /// Whether there may be answers yet: the session is not closing, and the peer has not ended its direction.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.0.session.is_closing() && !self.0.shared.table.is_over()
    }
}

impl<In, Out> Clone for Caller<In, Out> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<In, Out> fmt::Debug for Caller<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(self.session()).finish()
    }
}

/// The future of [`Session::request`] and [`Caller::request`].
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Requesting<In, Out = In> {
    asker: Asker<In, Out>,
    /// Until it is queued.
    message: Option<Out>,
    deadline: Option<Duration>,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    /// It has an id, and waits for room in the queue.
    Queueing {
        id: u64,
        waiter: Option<WaiterId>,
    },
    /// It waits for its answer.
    Queued {
        id: u64,
        number: Number,
    },
    Done,
}

impl<In, Out> Requesting<In, Out> {
    fn new(asker: Asker<In, Out>, message: Out) -> Self {
        let deadline = asker.shared().and_then(|shared| shared.deadline);
        Self {
            asker,
            message: Some(message),
            deadline,
            step: Step::Begin,
        }
    }

    /// How long to wait for the answer, from the first poll on and with the wait for room in the queue, in place of the
    /// layer's [setting](super::CorrelateLayer::with_deadline); `None` is until the session ends. From a second on, requests
    /// that are queued before the session's task has a turn count from the first of them: the clock is read once for all.
    ///
    /// One that is shorter than all others in flight costs an allocation.
    pub fn within(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }
}

// the message is moved, never pinned
impl<In, Out> Unpin for Requesting<In, Out> {}

impl<In: Send + 'static, Out: 'static> Future for Requesting<In, Out> {
    type Output = Result<In, RequestError<Out>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = match this.step {
            Step::Begin => this.poll_begin(cx),
            Step::Queued { id, number } => this.poll_queued(cx, id, number),
            Step::Queueing { id, .. } => this.poll_queueing(cx, id),
            Step::Done => panic!("a request was polled after it was ready"),
        };
        if polled.is_ready() {
            this.finish();
        }
        polled
    }
}

impl<In: Send + 'static, Out: 'static> Requesting<In, Out> {
    fn poll_begin(&mut self, cx: &Context<'_>) -> Poll<Result<In, RequestError<Out>>> {
        let Self {
            asker,
            message,
            deadline,
            step,
        } = self;
        let session = asker.session();
        if session.is_closing() {
            return Poll::Ready(Err(closed(session, message.take(), Left::No)));
        }
        let Some(shared) = asker.shared() else {
            return Poll::Ready(Err(match message.take() {
                Some(message) => RequestError::NoLayer(message),
                None => closed(session, None, Left::No),
            }));
        };
        match begin(cx, session, shared, message, *deadline, step)? {
            Some((id, number)) => {
                *step = Step::Queued { id, number };
                session.signal().raise(Signal::MESSAGES);
                Poll::Pending
            }
            None => self.poll_begun(cx),
        }
    }

    #[cold]
    fn poll_begun(&mut self, cx: &Context<'_>) -> Poll<Result<In, RequestError<Out>>> {
        match self.step {
            Step::Queueing { id, .. } => self.poll_queueing(cx, id),
            _ => unreachable!("it has an id and is not queued"),
        }
    }

    /// There was no room at first.
    #[cold]
    fn poll_queueing(&mut self, cx: &Context<'_>, id: u64) -> Poll<Result<In, RequestError<Out>>> {
        let Self {
            asker,
            message,
            step,
            ..
        } = self;
        let session = asker.session();
        let (Some(shared), Step::Queueing { waiter, .. }) = (asker.shared(), &mut *step) else {
            unreachable!("it waits for room, with an id");
        };
        let (pushed, next) = if shared.matching.is_ordered() {
            let push = || push(cx, session, message, waiter);
            shared.table.in_order(id, push)
        } else {
            push(cx, session, message, waiter).0
        };
        next.wake();
        if let Poll::Ready(error) = queued(session, message, step, pushed) {
            return Poll::Ready(Err(error));
        }
        // it may have been another task that was noted to be woken
        let outcome = ready!(shared.table.poll(cx, id));
        if let Step::Queued { number, .. } = *step {
            return conclude(cx, session, number, outcome, step);
        }
        Poll::Ready(Err(not_queued(session, message, &outcome, step)))
    }

    #[inline]
    fn poll_queued(
        &mut self,
        cx: &Context<'_>,
        id: u64,
        number: Number,
    ) -> Poll<Result<In, RequestError<Out>>> {
        let (session, Some(shared)) = (self.asker.session(), self.asker.shared()) else {
            unreachable!("it was queued, with an id");
        };
        match shared.table.poll(cx, id) {
            Poll::Ready(Outcome::Answer(answer)) => {
                // which has freed its place; and what was sent is nobody's concern any more
                self.step = Step::Done;
                Poll::Ready(Ok(answer))
            }
            Poll::Ready(outcome) => conclude(cx, session, number, outcome, &mut self.step),
            Poll::Pending => match session.watched().failure(number) {
                Some(failure) => Poll::Ready(Err(failed(session, Err(failure)))),
                None => Poll::Pending,
            },
        }
    }
}

/// What came of pushing a message into the queue, and which sender is next in turn.
type Pushed = (Poll<Result<Option<Number>, Refusal>>, Next);

/// Pushes `message` into the queue, or leaves it where it is; its number, if it was queued.
fn push<Out>(
    cx: &Context<'_>,
    session: &Session<Out>,
    message: &mut Option<Out>,
    waiter: &mut Option<WaiterId>,
) -> (Pushed, Option<Number>) {
    let mut payload = message.take().map(Payload::Message);
    let pushed = session.outbox().poll_push_watched(cx, &mut payload, waiter);
    *message = payload.and_then(Payload::into_message);
    let number = match pushed.0 {
        Poll::Ready(Ok(number)) => number,
        Poll::Ready(Err(_)) | Poll::Pending => None,
    };
    (pushed, number)
}

/// Gets an id, a place among those that wait and, where there is room at once, one in the queue: then gives id and number.
fn begin<In: Send + 'static, Out: 'static>(
    cx: &Context<'_>,
    session: &Session<Out>,
    shared: &Arc<Shared<In, Out>>,
    message: &mut Option<Out>,
    deadline: Option<Duration>,
    step: &mut Step,
) -> Result<Option<(u64, Number)>, RequestError<Out>> {
    let handle = session.handle();
    let awaits = |awaits| handle.set_awaits_answers(awaits);
    let (table, outbox) = (&shared.table, session.outbox());
    let is_ordered = shared.matching.is_ordered();
    let turns = session.watched().turns();
    let begun = table.begin_in_order(cx, (deadline, turns), awaits, || {
        let number = is_ordered.then(|| outbox.push_watched(message)).flatten();
        (number, number)
    });
    let (begun, pushed) = match begun {
        Ok(begun) => begun,
        Err(refused) => {
            return Err(match (refused, message.take()) {
                (Refused::Full, Some(message)) => RequestError::Full(message),
                (_, message) => closed(session, message, Left::No),
            });
        }
    };
    // before the user's code, which may panic: a drop gives the place back
    *step = Step::Queueing {
        id: begun.id,
        waiter: None,
    };
    if begun.is_first {
        session.watched().ask(Waker::from(Arc::clone(shared)));
    }
    if begun.unguarded {
        handle.keep(InputGuard(Arc::clone(shared)));
    }
    if let Some((at, look)) = begun.look {
        let shared = Arc::clone(shared);
        handle.check_at(at, move |handle, now| {
            let awaits = |awaits| handle.set_awaits_answers(awaits);
            shared.table.look(look, now, awaits)
        });
    }
    if let Some(marked) = message {
        shared.matching.mark(begun.id, marked);
    }
    let number = match pushed {
        None if !is_ordered => outbox.push_watched(message),
        pushed => pushed,
    };
    if number.is_none() {
        table.forget_time();
    }
    Ok(number.map(|number| (begun.id, number)))
}

/// Goes on from what came of pushing: ready with an error.
fn queued<Out>(
    session: &Session<Out>,
    message: &mut Option<Out>,
    step: &mut Step,
    pushed: Poll<Result<Option<Number>, Refusal>>,
) -> Poll<RequestError<Out>> {
    match (pushed, *step) {
        (Poll::Ready(Ok(Some(number))), Step::Queueing { id, .. }) => {
            *step = Step::Queued { id, number };
            session.signal().raise(Signal::MESSAGES);
            Poll::Pending
        }
        (Poll::Pending, _) => Poll::Pending,
        (Poll::Ready(Err(refusal)), _) => Poll::Ready(match (refusal, message.take()) {
            (Refusal::Full, Some(message)) => RequestError::Full(message),
            (Refusal::Budget, Some(message)) => RequestError::Budget(message),
            (Refusal::Finished, Some(message)) => RequestError::Finished(message),
            (_, message) => closed(session, message, Left::No),
        }),
        (Poll::Ready(Ok(_)), _) => unreachable!("a watched message has a number"),
    }
}

/// The end of a request that is not even queued.
fn not_queued<In, Out>(
    session: &Session<Out>,
    message: &mut Option<Out>,
    outcome: &Outcome<In>,
    step: &mut Step,
) -> RequestError<Out> {
    let message = message.take();
    match outcome {
        Outcome::Expired => RequestError::Deadline {
            message,
            left: Left::No,
        },
        Outcome::Over => closed(session, message, Left::No),
        // nobody can answer what was not asked, but a peer may guess an id
        Outcome::Answer(_) => {
            if let Step::Queueing {
                waiter: Some(waiter),
                ..
            } = std::mem::replace(step, Step::Done)
            {
                session.outbox().leave(waiter);
            }
            match message {
                Some(message) => RequestError::Full(message),
                None => closed(session, None, Left::No),
            }
        }
    }
}

/// The end of a request that was queued.
#[cold]
fn conclude<In, Out>(
    cx: &Context<'_>,
    session: &Session<Out>,
    number: Number,
    outcome: Outcome<In>,
    step: &mut Step,
) -> Poll<Result<In, RequestError<Out>>> {
    match outcome {
        Outcome::Answer(answer) => {
            *step = Step::Done;
            Poll::Ready(Ok(answer))
        }
        Outcome::Expired => {
            let left = if session.watched().has_left(number) {
                Left::Yes
            } else {
                Left::Perhaps
            };
            Poll::Ready(Err(RequestError::Deadline {
                message: None,
                left,
            }))
        }
        // what was accepted for sending is still flushed, and then it is known whether it has left
        Outcome::Over => {
            let outcome = ready!(session.watched().poll(cx, number));
            Poll::Ready(Err(failed(session, outcome)))
        }
    }
}

/// There will be no answer; `outcome` is that of sending.
fn failed<Out>(session: &Session<Out>, outcome: Result<(), SendFailure<Out>>) -> RequestError<Out> {
    match outcome {
        Ok(()) => closed(session, None, Left::Yes),
        Err(SendFailure::Encode(source)) => RequestError::Encode(source),
        Err(SendFailure::Closed(Some(payload))) => {
            closed(session, payload.into_message(), Left::No)
        }
        Err(_) => closed(session, None, Left::Perhaps),
    }
}

fn closed<Out>(session: &Session<Out>, message: Option<Out>, left: Left) -> RequestError<Out> {
    RequestError::Closed {
        message,
        left,
        reason: session.reason().unwrap_or(CloseReason::PeerClosed),
    }
}

impl<In, Out> Requesting<In, Out> {
    /// Gives back what it holds of the queue and of the table; nothing, once it is answered.
    #[inline]
    fn finish(&mut self) {
        if !matches!(self.step, Step::Begin | Step::Done) {
            self.give_up();
        }
    }

    #[cold]
    fn give_up(&mut self) {
        let step = std::mem::replace(&mut self.step, Step::Done);
        let (session, Some(shared)) = (self.asker.session(), self.asker.shared()) else {
            return;
        };
        let id = match step {
            Step::Begin | Step::Done => return,
            Step::Queueing { id, waiter } => {
                if let Some(waiter) = waiter {
                    session.outbox().leave(waiter);
                }
                id
            }
            Step::Queued { id, number } => {
                session.watched().abandon(number);
                id
            }
        };
        let handle = session.handle();
        shared
            .table
            .end(id, |awaits| handle.set_awaits_answers(awaits));
    }
}

impl<In, Out> Drop for Requesting<In, Out> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<In, Out> fmt::Debug for Requesting<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requesting")
            .field("session", self.asker.session())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
