//! Readiness that does not depend on tokio's cooperative budget.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use tokio::task::coop;
use tower::Service;

/// Polls the readiness of `service` once more, without tokio's cooperative budget.
///
/// `first` is the result of a poll that may have met the end of the budget. tokio's primitives are
/// pending then, even if they have room. A layer that turns this into an error, such as tower's
/// `LoadShed`, would refuse without cause. The caller must bound the number of calls with its own
/// budget.
#[cold]
#[inline(never)]
pub(crate) fn poll_ready_unconstrained<S: Service<R>, R>(
    service: &mut S,
    cx: &mut Context<'_>,
    first: Poll<Result<(), S::Error>>,
) -> Poll<Result<(), S::Error>> {
    if matches!(first, Poll::Ready(Err(_))) {
        return first; // final: the service is not polled again
    }
    unconstrained(cx, |cx| service.poll_ready(cx))
}

/// Calls `poll` without tokio's cooperative budget.
pub(crate) fn unconstrained<T>(
    cx: &mut Context<'_>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    pin!(coop::unconstrained(poll_fn(poll))).poll(cx)
}
