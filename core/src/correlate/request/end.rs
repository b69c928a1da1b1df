//! End of a request without a response.

use std::task::{Context, Poll, ready};

use super::Stage;
use crate::{
    connection::{CloseReason, RequestNumber},
    correlate::{
        error::{Delivery, RequestError},
        table::Outcome,
    },
    session::{Session, payload::SendFailure},
};

/// Creates the error of a request that was not queued.
pub(crate) fn fail_unqueued<In, Out>(
    session: &Session<Out>,
    message: &mut Option<Out>,
    outcome: &Outcome<In>,
    stage: &mut Stage,
) -> RequestError<Out> {
    let message = message.take();
    match outcome {
        Outcome::Expired => RequestError::Deadline {
            message,
            delivery: Delivery::NotSent,
        },
        Outcome::InputEnded => closed_error(session, message, Delivery::NotSent),
        // a message that was not sent has no response, but a peer may guess an id
        Outcome::Response(_) => {
            if let Stage::Queueing {
                waiter: Some(waiter),
                ..
            } = std::mem::replace(stage, Stage::Done)
            {
                session.outbox().cancel_push(waiter);
            }
            match message {
                Some(message) => RequestError::Full(message),
                None => closed_error(session, None, Delivery::NotSent),
            }
        }
    }
}

/// Resolves a request that was queued.
#[cold]
pub(crate) fn finish_without_response<In, Out>(
    cx: &Context<'_>,
    session: &Session<Out>,
    number: RequestNumber,
    outcome: Outcome<In>,
    stage: &mut Stage,
) -> Poll<Result<In, RequestError<Out>>> {
    match outcome {
        Outcome::Response(response) => {
            *stage = Stage::Done;
            Poll::Ready(Ok(response))
        }
        Outcome::Expired => {
            let delivery = if session.requests().was_sent(number) {
                Delivery::Sent
            } else {
                Delivery::Unknown
            };
            Poll::Ready(Err(RequestError::Deadline {
                message: None,
                delivery,
            }))
        }
        // messages accepted for sending are still flushed and the delivery is known afterwards
        Outcome::InputEnded => {
            let outcome = ready!(session.requests().poll(cx, number));
            Poll::Ready(Err(failure_error(session, outcome)))
        }
    }
}

/// Creates the error of a request without a response. `outcome` is that of the send.
pub(crate) fn failure_error<Out>(
    session: &Session<Out>,
    outcome: Result<(), SendFailure<Out>>,
) -> RequestError<Out> {
    match outcome {
        Ok(()) => closed_error(session, None, Delivery::Sent),
        Err(SendFailure::Encode(source)) => RequestError::Encode(source),
        Err(SendFailure::Closed(Some(payload))) => {
            closed_error(session, payload.into_message(), Delivery::NotSent)
        }
        Err(_) => closed_error(session, None, Delivery::Unknown),
    }
}

pub(crate) fn closed_error<Out>(
    session: &Session<Out>,
    message: Option<Out>,
    delivery: Delivery,
) -> RequestError<Out> {
    RequestError::Closed {
        message,
        delivery,
        reason: session.reason().unwrap_or(CloseReason::PeerClosed),
    }
}
