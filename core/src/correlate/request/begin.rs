//! Start of a request: an id in the table, then a place in the queue.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Stage,
    end::closed_error,
    shared::{Correlator, InputGuard},
};
use crate::{
    connection::{CloseReason, HandleExt, RequestNumber},
    correlate::{
        error::{Delivery, RequestError},
        table::{BeginError, Overdue},
    },
    session::{PendingWakes, Refusal, Session, payload::Payload},
    sync::WaiterId,
};

/// Result of pushing a message into the queue and the wakers of the next senders.
pub(crate) type Pushed = (Poll<Result<Option<RequestNumber>, Refusal>>, PendingWakes);

/// Pushes `message` into the queue unless there is no room. Returns its number if it was
/// queued.
pub(crate) fn push<Out>(
    cx: &Context<'_>,
    session: &Session<Out>,
    message: &mut Option<Out>,
    waiter: &mut Option<WaiterId>,
) -> (Pushed, Option<RequestNumber>) {
    let mut payload = message.take().map(Payload::Message);
    let pushed = session.outbox().poll_push_request(cx, &mut payload, waiter);
    *message = payload.and_then(Payload::into_message);
    let number = match pushed.0 {
        Poll::Ready(Ok(number)) => number,
        Poll::Ready(Err(_)) | Poll::Pending => None,
    };
    (pushed, number)
}

/// Adds the request to the table, and queues its message if there is room at once. Returns id
/// and number if it was queued.
#[inline]
pub(crate) fn begin<In: Send + 'static, Out: 'static>(
    cx: &Context<'_>,
    session: &Session<Out>,
    shared: &Arc<Correlator<In, Out>>,
    message: &mut Option<Out>,
    deadline: Option<Duration>,
    stage: &mut Stage,
) -> Result<Option<(u64, RequestNumber)>, RequestError<Out>> {
    let handle = session.handle();
    let (table, outbox) = (&shared.table, session.outbox());
    let is_ordered = shared.matching.is_ordered();
    let polls = session.requests().polls();
    let started = table.begin_with(cx, (deadline, polls), handle, || {
        let number = is_ordered.then(|| outbox.push_request(message)).flatten();
        (number, number)
    });
    let (started, pushed) = match started {
        Ok(started) => started,
        Err(refused) => {
            return Err(match (refused, message.take()) {
                (BeginError::Full, Some(message)) => RequestError::Full(message),
                (_, message) => closed_error(session, message, Delivery::NotSent),
            });
        }
    };
    // set before the user's code, which may panic: a drop then removes the request from the table
    *stage = Stage::Queueing {
        id: started.id,
        waiter: None,
    };
    if started.is_first {
        session.requests().add(shared);
    }
    if started.needs_guard {
        handle.on_input_end(InputGuard(Arc::clone(shared)));
    }
    if let Some((at, scan)) = started.scan {
        let shared = Arc::clone(shared);
        handle.schedule(at, move |handle, now| {
            match shared.table.expire(scan, now, handle) {
                Ok(next) => next,
                Err(Overdue) => {
                    handle.close_with(CloseReason::AnswerMissed);
                    None
                }
            }
        });
    }
    if let Some(marked) = message {
        shared.matching.mark(started.id, marked);
    }
    let number = match pushed {
        None if !is_ordered => outbox.push_request(message),
        pushed => pushed,
    };
    if number.is_none() {
        table.reset_clock();
    }
    Ok(number.map(|number| (started.id, number)))
}

/// Continues after a push. Ready with an error if the push failed.
pub(crate) fn push_result<Out>(
    session: &Session<Out>,
    message: &mut Option<Out>,
    stage: &mut Stage,
    pushed: Poll<Result<Option<RequestNumber>, Refusal>>,
) -> Poll<RequestError<Out>> {
    match (pushed, *stage) {
        (Poll::Ready(Ok(Some(number))), Stage::Queueing { id, .. }) => {
            *stage = Stage::Queued { id, number };
            session.raise_messages();
            Poll::Pending
        }
        (Poll::Pending, _) => Poll::Pending,
        (Poll::Ready(Err(refusal)), _) => Poll::Ready(match (refusal, message.take()) {
            (Refusal::Full, Some(message)) => RequestError::Full(message),
            (Refusal::Budget, Some(message)) => RequestError::Budget(message),
            (Refusal::Finished, Some(message)) => RequestError::Finished(message),
            (_, message) => closed_error(session, message, Delivery::NotSent),
        }),
        (Poll::Ready(Ok(_)), _) => unreachable!("a queued request has a number"),
    }
}
