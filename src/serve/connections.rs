//! The connections of a server: one task each.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_layers::{CloseReason, Closed, ConnectionHandle, DrainDeadlineExceeded};
use pin_project_lite::pin_project;
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};
use tower::BoxError;

use super::Drained;

#[derive(Debug, Default)]
pub(super) struct Connections {
    tasks: JoinSet<End>,
    live: HashMap<Id, (ConnectionHandle, AbortHandle)>,
    draining: bool,
    drained: Drained,
}

/// How a connection's task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    CutOff,
}

impl Connections {
    pub(super) fn spawn<F, E>(&mut self, handle: ConnectionHandle, future: F)
    where
        F: Future<Output = Result<Closed, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let task = self.tasks.spawn(Drive {
            future,
            handle: handle.clone(),
        });
        self.live.insert(task.id(), (handle, task));
    }

    /// Forgets the connections that have ended.
    pub(super) fn poll_reap(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next_with_id(cx) {
            self.ended(ended);
        }
    }

    /// From here on how connections end is counted. Those whose session is not open yet end now; the others are given
    /// back, to be closed.
    pub(super) fn abort_unopened(&mut self) -> Vec<ConnectionHandle> {
        self.draining = true;
        let mut open = Vec::with_capacity(self.live.len());
        for (handle, task) in self.live.values() {
            if handle.is_open() {
                open.push(handle.clone());
            } else {
                handle.close_with(CloseReason::Shutdown);
                task.abort();
            }
        }
        open
    }

    /// Waits until all have ended, or `deadline` has passed; without one, for ever.
    pub(super) async fn reap_until(&mut self, deadline: Option<Instant>) {
        match deadline {
            // what the time-out drops is only the wait
            Some(deadline) => drop(timeout_at(deadline, self.reap_all()).await),
            None => self.reap_all().await,
        }
    }

    /// Waits until all have ended.
    pub(super) async fn reap_all(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
    }

    pub(super) fn abort_all(&mut self) {
        self.tasks.abort_all();
    }

    pub(super) const fn drained(&self) -> Drained {
        self.drained
    }

    fn ended(&mut self, ended: Result<(Id, End), JoinError>) {
        let (id, end) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                (error.id(), End::CutOff)
            }
        };
        self.live.remove(&id);
        if self.draining {
            match end {
                End::Finished => self.drained.finished += 1,
                End::CutOff => self.drained.aborted += 1,
            }
        }
    }
}

pin_project! {
    /// A connection's task: a named future, because an async block would hold the pipeline's future twice.
    struct Drive<F> {
        #[pin]
        future: F,
        handle: ConnectionHandle,
    }
}

impl<F, E> Future for Drive<F>
where
    F: Future<Output = Result<Closed, E>>,
    E: Into<BoxError>,
{
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.project();
        Poll::Ready(match ready!(this.future.poll(cx)) {
            Ok(closed) if was_cut_off(&closed) => End::CutOff,
            Ok(_) => End::Finished,
            Err(error) => {
                let error: BoxError = error.into();
                tracing::debug!(connection = %this.handle, error = &*error, "a connection ended before its session");
                End::CutOff
            }
        })
    }
}

/// A shutdown has no source of its own: one was noted because something was left that could not leave.
fn was_cut_off(closed: &Closed) -> bool {
    closed.source.as_ref().is_some_and(|source| {
        closed.reason == CloseReason::Shutdown || source.is::<DrainDeadlineExceeded>()
    })
}
