//! Async functions of the application that run for a session.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::{Close, CloseReason, ConnectionHandle, hooks::Contained, internal::catch};

/// Polls the future in `running`, and starts it with `start` if there is none. Ready with the
/// error of the future if it failed.
///
/// A panic closes the session as [`CloseReason::Panicked`].
pub(crate) fn poll_hook<Fut, E>(
    mut running: Pin<&mut Option<Contained<Fut>>>,
    start: impl FnOnce() -> Fut,
    session: &ConnectionHandle,
    cx: &mut Context<'_>,
) -> Poll<Option<E>>
where
    Fut: Future<Output = Result<(), E>>,
{
    let polled = catch(|| {
        if running.is_none() {
            running.set(Some(Contained::new(start())));
        }
        match running.as_mut().as_pin_mut() {
            Some(running) => running.poll(cx),
            None => unreachable!("the future was set above"),
        }
    });
    match polled {
        Ok(polled) => polled.map(Result::err),
        Err(panic) => {
            session.close_with(Close::new(CloseReason::Panicked).with_source(panic));
            Poll::Ready(None)
        }
    }
}
