//! Accept loop of one listener: accept, poll the stack ready, call it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use getty_core::{
    Close, CloseReason, Connection, Panic,
    hooks::{Contained, defer_refusal, end_refusal},
    internal::log,
};
use tokio::time::{Sleep, sleep};
use tower::BoxError;

use super::connections::Connections;
use crate::{net::Listener, pipeline::Pipeline, session::unconstrained};

/// Pause after the first error of a listener. Each further error doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Maximum pause after an error of a listener.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of accepts in one poll. Then other listeners, the shutdown and the sessions
/// on this thread can run. A listener may have a connection ready at every poll.
const BURST: usize = 32;

/// Type-erased [`Acceptor`]. The erasure costs one allocation per listener and none per
/// connection.
pub(super) trait Accept: Send {
    /// Accepts connections and spawns them. Ready with the readiness error of the stack.
    fn poll(&mut self, cx: &mut Context<'_>, connections: &mut Connections) -> Poll<BoxError>;
}

pub(super) struct Acceptor<L: Listener, S> {
    listener: Contained<L>,
    stack: Contained<S>,
    /// Accepted connection that waits for the stack to be ready.
    accepted: Option<Connection<L::Io>>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
}

impl<L: Listener, S> Acceptor<L, S> {
    pub(super) const fn new(listener: L, stack: S) -> Self {
        Self {
            listener: Contained::new(listener),
            stack: Contained::new(stack),
            accepted: None,
            pause: None,
            next_pause: FIRST_PAUSE,
        }
    }

    fn accept_failed(&mut self, error: &io::Error) {
        if is_of_one_connection(error) {
            log(|| tracing::debug!(%error, "connection lost before it was accepted"));
            return;
        }
        // (design.md: Why do accept errors never end `serve`?)
        log(|| {
            tracing::warn!(%error, pause = ?self.next_pause, "accept failed, retrying after a pause");
        });
        self.pause = Some(Box::pin(sleep(self.next_pause)));
        self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
    }
}

impl<L, S> Accept for Acceptor<L, S>
where
    L: Listener,
    S: Pipeline<L::Io>,
{
    fn poll(&mut self, cx: &mut Context<'_>, connections: &mut Connections) -> Poll<BoxError> {
        for _ in 0..BURST {
            if self.accepted.is_none() {
                if let Some(pause) = &mut self.pause {
                    ready!(pause.as_mut().poll(cx));
                    self.pause = None;
                }
                // (design.md: Why does `serve` accept before it polls readiness?)
                match ready!(self.listener.poll_accept(cx)) {
                    Ok(connection) => {
                        self.next_pause = FIRST_PAUSE;
                        self.accepted = Some(connection);
                    }
                    Err(error) => {
                        self.accept_failed(&error);
                        continue;
                    }
                }
            }
            // A panic is final, like an error: the state of the stack is unknown afterwards.
            // Readiness is polled outside tokio's budget, because tower's `LoadShed` takes a
            // used-up budget for overload (design.md: Why is readiness polled without the
            // cooperative budget?). `BURST` bounds the loop.
            match Panic::catch(|| unconstrained(cx, |cx| self.stack.poll_ready(cx))) {
                Ok(Poll::Ready(Ok(()))) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                // (design.md: Why does `serve` end when the stack's readiness fails?)
                Ok(Poll::Ready(Err(error))) => return Poll::Ready(error.into()),
                Err(panic) => return Poll::Ready(panic.into()),
            }
            let Some(connection) = self.accepted.take() else {
                continue;
            };
            let handle = connection.handle().clone();
            // A layer that refuses may drop the connection in `call` and return its error only in
            // the future's first poll. The record of the refusal waits until then.
            defer_refusal(&handle);
            // A panic in `call` ends this connection only, because it dropped the connection's
            // guard.
            match Panic::catch(|| self.stack.call(connection)) {
                Ok(future) => connections.spawn(handle, future),
                Err(panic) => {
                    log(
                        || tracing::error!(connection = %handle, %panic, "the stack panicked in `call`"),
                    );
                    handle.close_with(Close::new(CloseReason::Panicked).with_source(panic));
                    end_refusal(&handle, None);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Returns `true` if `error` concerns the connection that was to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
