//! The future of one request, from the first poll to its answer.

mod begin;
mod caller;
mod end;
mod shared;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

pub use self::caller::Caller;
pub use self::shared::Shared;
use self::{
    begin::{begin, push, queued},
    caller::Asker,
    end::{closed, conclude, failed, not_queued},
};
use super::{
    error::{Left, RequestError},
    table::Outcome,
};
use crate::session::{Number, WaiterId};

/// The future of [`Session::request`](crate::Session::request) and [`Caller::request`].
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
    /// layer's setting (`CorrelateLayer::with_deadline`); `None` is until the session ends. From a second on, requests
    /// that are queued before the session's task has a turn count from the first of them: the clock is read once for all.
    ///
    /// A deadline that is shorter than all others in flight costs an allocation. Where answers come
    /// in order, a deadline that passes
    /// closes the session (`CorrelateLayer::with_close_at_deadline`) by default.
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
                session.raise_messages();
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
        let (id, queued) = match step {
            Step::Begin | Step::Done => return,
            Step::Queueing { id, waiter } => {
                if let Some(waiter) = waiter {
                    session.outbox().leave(waiter);
                }
                (id, None)
            }
            Step::Queued { id, number } => {
                session.watched().abandon(number);
                (id, Some(number))
            }
        };
        let handle = session.handle();
        if let Some(oldest) = shared.table.end(id, queued, handle) {
            (shared.watch_full)(shared, handle, oldest);
        }
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
