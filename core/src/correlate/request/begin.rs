//! The beginning of a request: a place among those that wait, and one in the queue.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Step,
    end::closed,
    shared::{InputGuard, Shared},
};
use crate::{
    connection::CloseReason,
    correlate::{
        error::{Left, RequestError},
        table::{Overdue, Refused},
    },
    session::{Next, Number, Refusal, Session, WaiterId, payload::Payload},
};

/// What came of pushing a message into the queue, and which sender is next in turn.
pub(crate) type Pushed = (Poll<Result<Option<Number>, Refusal>>, Next);

/// Pushes `message` into the queue, or leaves it where it is; its number, if it was queued.
pub(crate) fn push<Out>(
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
#[inline]
pub(crate) fn begin<In: Send + 'static, Out: 'static>(
    cx: &Context<'_>,
    session: &Session<Out>,
    shared: &Arc<Shared<In, Out>>,
    message: &mut Option<Out>,
    deadline: Option<Duration>,
    step: &mut Step,
) -> Result<Option<(u64, Number)>, RequestError<Out>> {
    let handle = session.handle();
    let (table, outbox) = (&shared.table, session.outbox());
    let is_ordered = shared.matching.is_ordered();
    let turns = session.watched().turns();
    let begun = table.begin_in_order(cx, (deadline, turns), handle, || {
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
        session.watched().add(shared);
    }
    if begun.unguarded {
        handle.keep(InputGuard(Arc::clone(shared)));
    }
    if let Some((at, look)) = begun.look {
        let shared = Arc::clone(shared);
        handle.check_at(at, move |handle, now| {
            match shared.table.look(look, now, handle) {
                Ok(next) => next,
                Err(Overdue) => {
                    handle.close_with(CloseReason::AnswerMissed);
                    None
                }
            }
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
pub(crate) fn queued<Out>(
    session: &Session<Out>,
    message: &mut Option<Out>,
    step: &mut Step,
    pushed: Poll<Result<Option<Number>, Refusal>>,
) -> Poll<RequestError<Out>> {
    match (pushed, *step) {
        (Poll::Ready(Ok(Some(number))), Step::Queueing { id, .. }) => {
            *step = Step::Queued { id, number };
            session.raise_messages();
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
