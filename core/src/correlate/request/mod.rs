//! Future of a request, from the first poll to the response.

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
pub use self::shared::Correlator;
use self::{
    begin::{begin, push, push_result},
    caller::Requester,
    end::{closed_error, fail_unqueued, failure_error, finish_without_response},
};
use super::{
    error::{Delivery, RequestError},
    table::Outcome,
};
use crate::{connection::RequestNumber, sync::WaiterId};

/// Future of [`Session::request`](crate::Session::request) and [`Caller::request`].
///
/// # Panics
///
/// Panics if it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Requesting<In, Out = In> {
    requester: Requester<In, Out>,
    /// The message, until it is queued.
    message: Option<Out>,
    deadline: Option<Duration>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Begin,
    /// The request has an id, and waits for room in the queue.
    Queueing {
        id: u64,
        waiter: Option<WaiterId>,
    },
    /// The message is queued and the request waits for its response.
    Queued {
        id: u64,
        number: RequestNumber,
    },
    Done,
}

impl<In, Out> Requesting<In, Out> {
    fn new(requester: Requester<In, Out>, message: Out) -> Self {
        let deadline = requester.shared().and_then(|shared| shared.deadline);
        Self {
            requester,
            message: Some(message),
            deadline,
            stage: Stage::Begin,
        }
    }

    /// Sets the deadline of the response. The default is the layer's setting
    /// (`CorrelateLayer::with_deadline`). `None` waits until the session ends.
    ///
    /// The time counts from the first poll and includes the wait for room in the queue. Requests
    /// with a deadline of a second or more that are queued before the next poll of the session's
    /// task share the start time of the first, because the clock is then read once for all
    /// (design.md: Why do long deadlines count from another request's start?).
    ///
    /// A deadline that is shorter than all others in flight costs an allocation. Where responses
    /// come in order, a missed deadline closes the session by default
    /// (`CorrelateLayer::with_close_at_deadline`).
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
        let polled = match this.stage {
            Stage::Begin => this.poll_begin(cx),
            Stage::Queued { id, number } => this.poll_queued(cx, id, number),
            Stage::Queueing { id, .. } => this.poll_queueing(cx, id),
            Stage::Done => panic!("a request was polled after it was ready"),
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
            requester,
            message,
            deadline,
            stage,
        } = self;
        let session = requester.session();
        if session.is_closing() {
            return Poll::Ready(Err(closed_error(
                session,
                message.take(),
                Delivery::NotSent,
            )));
        }
        let Some(shared) = requester.shared() else {
            return Poll::Ready(Err(match message.take() {
                Some(message) => RequestError::NoLayer(message),
                None => closed_error(session, None, Delivery::NotSent),
            }));
        };
        match begin(cx, session, shared, message, *deadline, stage)? {
            Some((id, number)) => {
                *stage = Stage::Queued { id, number };
                session.raise_messages();
                Poll::Pending
            }
            None => self.poll_begun(cx),
        }
    }

    #[cold]
    fn poll_begun(&mut self, cx: &Context<'_>) -> Poll<Result<In, RequestError<Out>>> {
        match self.stage {
            Stage::Queueing { id, .. } => self.poll_queueing(cx, id),
            _ => unreachable!("a started request has an id and is not queued"),
        }
    }

    /// Polls a request for which there was no room at first.
    #[cold]
    fn poll_queueing(&mut self, cx: &Context<'_>, id: u64) -> Poll<Result<In, RequestError<Out>>> {
        let Self {
            requester,
            message,
            stage,
            ..
        } = self;
        let session = requester.session();
        let (Some(shared), Stage::Queueing { waiter, .. }) = (requester.shared(), &mut *stage)
        else {
            unreachable!("a request that waits for room has an id");
        };
        let (pushed, next) = if shared.matching.is_ordered() {
            let push = || push(cx, session, message, waiter);
            shared.table.in_order(id, push)
        } else {
            push(cx, session, message, waiter).0
        };
        next.wake();
        if let Poll::Ready(error) = push_result(session, message, stage, pushed) {
            return Poll::Ready(Err(error));
        }
        // the table may have the waker of another task
        let outcome = ready!(shared.table.poll(cx, id));
        if let Stage::Queued { number, .. } = *stage {
            return finish_without_response(cx, session, number, outcome, stage);
        }
        Poll::Ready(Err(fail_unqueued(session, message, &outcome, stage)))
    }

    #[inline]
    fn poll_queued(
        &mut self,
        cx: &Context<'_>,
        id: u64,
        number: RequestNumber,
    ) -> Poll<Result<In, RequestError<Out>>> {
        let (session, Some(shared)) = (self.requester.session(), self.requester.shared()) else {
            unreachable!("a queued request has an id");
        };
        match shared.table.poll(cx, id) {
            Poll::Ready(Outcome::Response(response)) => {
                // `poll` has freed the slot and the outcome of the send is not needed any more
                self.stage = Stage::Done;
                Poll::Ready(Ok(response))
            }
            Poll::Ready(outcome) => {
                finish_without_response(cx, session, number, outcome, &mut self.stage)
            }
            Poll::Pending => match session.requests().take_failure(number) {
                Some(failure) => Poll::Ready(Err(failure_error(session, Err(failure)))),
                None => Poll::Pending,
            },
        }
    }
}

impl<In, Out> Requesting<In, Out> {
    /// Removes the request from the queue and the table unless it has its response.
    #[inline]
    fn finish(&mut self) {
        if !matches!(self.stage, Stage::Begin | Stage::Done) {
            self.give_up();
        }
    }

    #[cold]
    fn give_up(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        let (session, Some(shared)) = (self.requester.session(), self.requester.shared()) else {
            return;
        };
        let (id, queued) = match stage {
            Stage::Begin | Stage::Done => return,
            Stage::Queueing { id, waiter } => {
                if let Some(waiter) = waiter {
                    session.outbox().cancel_push(waiter);
                }
                (id, None)
            }
            Stage::Queued { id, number } => {
                session.requests().abandon(number);
                (id, Some(number))
            }
        };
        let handle = session.handle();
        if let Some(oldest) = shared.table.end(id, queued, handle) {
            (shared.schedule_full_check)(shared, handle, oldest);
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
            .field("session", self.requester.session())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
