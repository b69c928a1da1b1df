//! The end of a request without an answer.

use std::task::{Context, Poll, ready};

use super::Step;
use crate::{
    connection::CloseReason,
    correlate::{
        error::{Left, RequestError},
        table::Outcome,
    },
    session::{Number, Session, error::SendFailure},
};

/// The end of a request that is not even queued.
pub(crate) fn not_queued<In, Out>(
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
pub(crate) fn conclude<In, Out>(
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
pub(crate) fn failed<Out>(
    session: &Session<Out>,
    outcome: Result<(), SendFailure<Out>>,
) -> RequestError<Out> {
    match outcome {
        Ok(()) => closed(session, None, Left::Yes),
        Err(SendFailure::Encode(source)) => RequestError::Encode(source),
        Err(SendFailure::Closed(Some(payload))) => {
            closed(session, payload.into_message(), Left::No)
        }
        Err(_) => closed(session, None, Left::Perhaps),
    }
}

pub(crate) fn closed<Out>(
    session: &Session<Out>,
    message: Option<Out>,
    left: Left,
) -> RequestError<Out> {
    RequestError::Closed {
        message,
        left,
        reason: session.reason().unwrap_or(CloseReason::PeerClosed),
    }
}
