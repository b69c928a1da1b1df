//! The sessions of a client that are not closed yet.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use getty_core::{CloseReason, Closed, ConnectionHandle, Session};
use tokio::{task::AbortHandle, time::Instant};

use crate::connect::OwnedTask;

/// The sessions, in the order in which they were opened, and what is awaited of them. Dropped, it ends them at once.
pub(super) struct Members<Out> {
    list: Vec<Member<Out>>,
    ends: FuturesUnordered<BoxFuture<'static, End>>,
}

pub(super) struct Member<Out> {
    /// The number of the attempt that opened it.
    attempt: u64,
    session: Session<Out>,
    task: AbortHandle,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Its hooks run.
    Preparing,
    /// It may be picked, since then.
    Offered(Instant),
    /// A hook has failed, which was judged already: its end is no news.
    Rejected,
    /// Its peer has ended its direction, and handlers work on what had come before. No deadline holds for them, so that
    /// it is not waited for: the peer is gone, and with it the reason to have one session less.
    Finished,
    /// It is closing.
    Leaving,
}

/// The steps in which a session ends, each with the number of its attempt.
pub(super) enum End {
    Finished(u64, OwnedTask),
    Closing(u64, OwnedTask),
    Closed(u64, Closed),
}

/// A session that is not to be offered any more, though nobody said so before.
pub(super) struct Lost {
    pub(super) attempt: u64,
    /// For how long it was offered; `None` if its hooks were not done.
    pub(super) lived: Option<Duration>,
}

impl<Out: Send + 'static> Members<Out> {
    pub(super) fn new() -> Self {
        Self {
            list: Vec::new(),
            ends: FuturesUnordered::new(),
        }
    }

    /// How many count towards those that are asked for.
    pub(super) fn count(&self) -> usize {
        let there = self.list.iter();
        there
            .filter(|member| !matches!(member.phase, Phase::Finished))
            .count()
    }

    /// Whether one is offered.
    pub(super) fn is_open(&self) -> bool {
        self.offered().next().is_some()
    }

    /// Those that are offered.
    pub(super) fn offered(&self) -> impl Iterator<Item = &Session<Out>> {
        self.list.iter().filter_map(|member| match member.phase {
            Phase::Offered(_) => Some(&member.session),
            _ => None,
        })
    }

    /// Takes in a session that was just opened, and is to be prepared.
    pub(super) fn admit(&mut self, attempt: u64, session: Session<Out>, task: OwnedTask) {
        let handle = session.handle().clone();
        self.list.push(Member {
            attempt,
            session,
            task: task.abort_handle(),
            phase: Phase::Preparing,
        });
        let ending = async move {
            handle.peer_finished().await;
            if handle.is_closing() {
                End::Closing(attempt, task)
            } else {
                End::Finished(attempt, task)
            }
        };
        self.ends.push(ending.boxed());
    }

    fn preparing(&mut self) -> Option<&mut Member<Out>> {
        self.list
            .iter_mut()
            .find(|member| matches!(member.phase, Phase::Preparing))
    }

    /// The session that was prepared is to be offered from now on.
    pub(super) fn offer(&mut self) -> Option<&Session<Out>> {
        let member = self.preparing()?;
        member.phase = Phase::Offered(Instant::now());
        Some(&member.session)
    }

    /// The session that was to be prepared will not be.
    pub(super) fn reject(&mut self) {
        if let Some(member) = self.preparing() {
            member.phase = Phase::Rejected;
            member.session.close();
        }
    }

    /// The next step of one that ends; pending while there is none.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.ends.poll_next_unpin(cx) {
            Poll::Ready(Some(end)) => Poll::Ready(end),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// A session's peer has ended its direction.
    pub(super) fn finished(&mut self, attempt: u64, task: OwnedTask) -> Option<Lost> {
        let (handle, lost) = self.leave(attempt, Phase::Finished)?;
        let closing = async move {
            handle.closing().await;
            End::Closing(attempt, task)
        };
        self.ends.push(closing.boxed());
        lost
    }

    /// A session is closing.
    pub(super) fn closing(&mut self, attempt: u64, task: OwnedTask) -> Option<Lost> {
        let (handle, lost) = self.leave(attempt, Phase::Leaving)?;
        let closed = async move {
            // how the session ended is in its record; this is what went wrong around it
            if let Err(error) = task.await {
                tracing::debug!(%error, "a session's task ended early");
            }
            End::Closed(attempt, handle.closed().await)
        };
        self.ends.push(closed.boxed());
        lost
    }

    fn place(&self, attempt: u64) -> Option<usize> {
        self.list
            .iter()
            .position(|member| member.attempt == attempt)
    }

    fn leave(&mut self, attempt: u64, phase: Phase) -> Option<(ConnectionHandle, Option<Lost>)> {
        let place = self.place(attempt)?;
        let member = &mut self.list[place];
        let lived = match member.phase {
            Phase::Rejected => return Some((member.session.handle().clone(), None)),
            Phase::Finished | Phase::Leaving => None,
            Phase::Preparing => Some(None),
            Phase::Offered(since) => Some(Some(since.elapsed())),
        };
        member.phase = phase;
        let lost = lived.map(|lived| Lost { attempt, lived });
        Some((member.session.handle().clone(), lost))
    }

    /// A session is closed: it is one no more. Whether that is news.
    pub(super) fn remove(&mut self, attempt: u64) -> bool {
        let phase = self
            .place(attempt)
            .map(|place| self.list.remove(place).phase);
        !matches!(phase, None | Some(Phase::Rejected))
    }

    /// Closes all.
    pub(super) fn close(&self, deadline: Duration) {
        for member in &self.list {
            member.session.close_within(CloseReason::Local, deadline);
        }
    }

    /// Ends their tasks.
    pub(super) fn abort(&self) {
        for member in &self.list {
            member.task.abort();
        }
    }

    /// Waits until all have ended, which is no news any more.
    pub(super) async fn drain(&mut self) {
        while let Some(end) = self.ends.next().await {
            match end {
                End::Finished(attempt, task) => drop(self.finished(attempt, task)),
                End::Closing(attempt, task) => drop(self.closing(attempt, task)),
                End::Closed(attempt, _) => drop(self.remove(attempt)),
            }
        }
    }

    /// Those that are offered, to be given to callers.
    pub(super) fn to_offer(&self) -> Arc<[Session<Out>]> {
        self.offered().cloned().collect()
    }
}
