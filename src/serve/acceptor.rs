//! One listener with its stack.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use getty_core::{
    CloseReason, Connection, Panic,
    driver::{Contained, defer_refusal, end_refusal},
};
use tokio::time::{Sleep, sleep};
use tower::BoxError;

use super::connections::Connections;
use crate::{net::Listener, pipeline::Pipeline, session::ready::unconstrained};

/// The first pause after an accept error of the listener's own; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many accepts, then it is others' turn: other listeners, the shutdown, the sessions on this thread. A listener may
/// have a connection ready whenever it is asked.
const BURST: usize = 32;

/// An [`Acceptor`] whose types are forgotten: once a listener, not once a connection.
pub(super) trait Accept: Send {
    /// Accepts for ever; ready with the stack's readiness error.
    fn poll(&mut self, cx: &mut Context<'_>, connections: &mut Connections) -> Poll<BoxError>;
}

pub(super) struct Acceptor<L: Listener, S> {
    listener: Contained<L>,
    stack: Contained<S>,
    /// Accepted, and waiting for the stack to be ready.
    waiting: Option<Connection<L::Io>>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
}

impl<L: Listener, S> Acceptor<L, S> {
    pub(super) const fn new(listener: L, stack: S) -> Self {
        Self {
            listener: Contained::new(listener),
            stack: Contained::new(stack),
            waiting: None,
            pause: None,
            next_pause: FIRST_PAUSE,
        }
    }

    fn accept_failed(&mut self, error: &io::Error) {
        if concerns_one_connection(error) {
            tracing::debug!(%error, "a connection was lost before it was accepted");
            return;
        }
        tracing::warn!(%error, pause = ?self.next_pause, "accepting failed; it goes on after a pause");
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
            if self.waiting.is_none() {
                if let Some(pause) = &mut self.pause {
                    ready!(pause.as_mut().poll(cx));
                    self.pause = None;
                }
                match ready!(self.listener.poll_accept(cx)) {
                    Ok(connection) => {
                        self.next_pause = FIRST_PAUSE;
                        self.waiting = Some(connection);
                    }
                    Err(error) => {
                        self.accept_failed(&error);
                        continue;
                    }
                }
            }
            // a panic is as final as an error: nobody knows what it has left of the stack without
            // tokio's budget, whose end would look like an overload to tower's `LoadShed`; `BURST`
            // bounds the loop
            match Panic::catch(|| unconstrained(cx, |cx| self.stack.poll_ready(cx))) {
                Ok(Poll::Ready(Ok(()))) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Err(error))) => return Poll::Ready(error.into()),
                Err(panic) => return Poll::Ready(panic.into()),
            }
            let Some(connection) = self.waiting.take() else {
                continue;
            };
            let handle = connection.handle().clone();
            // until the future's first poll: a layer that refuses may drop the connection here, and
            // fail there
            defer_refusal(&handle);
            // a layer that panicked in `call` has harmed this connection, whose lease it dropped, and no other
            match Panic::catch(|| self.stack.call(connection)) {
                Ok(future) => connections.spawn(handle, future),
                Err(panic) => {
                    tracing::error!(connection = %handle, %panic, "the stack panicked as it was called");
                    handle.close_because(CloseReason::Panicked, panic);
                    end_refusal(&handle, None);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
