//! Set of a client's sessions that are not closed yet.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use getty_core::{Close, CloseReason, Closed, ConnectionHandle, Session, internal::log};
use tokio::{task::AbortHandle, time::Instant};

use crate::connect::OwnedTask;

/// Sessions in the order in which they were opened, and the futures that wait for their ends.
/// Dropping the set aborts them.
pub(super) struct Members<Out> {
    list: Vec<Member<Out>>,
    ends: FuturesUnordered<BoxFuture<'static, End>>,
}

pub(super) struct Member<Out> {
    /// Number of the attempt that opened the session.
    attempt: u64,
    session: Session<Out>,
    task: AbortHandle,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// The hooks run.
    Preparing,
    /// The session can be picked since this time.
    Offered(Instant),
    /// A hook failed, and the retry policy was called. The end of the session must not be reported
    /// again.
    Rejected,
    /// The peer ended its direction, but handlers still work on earlier messages and have no
    /// deadline. The session is replaced without waiting for them.
    Finished,
    /// The session is closing.
    Closing,
}

/// Steps in which a session ends, each with the number of its attempt.
pub(super) enum End {
    Finished(u64, OwnedTask),
    Closing(u64, OwnedTask),
    Closed(u64, Closed),
}

/// Session that can no longer be offered, reported once.
pub(super) struct Lost {
    pub(super) attempt: u64,
    /// Time for which the session was offered. `None` if its hooks had not finished.
    pub(super) lived: Option<Duration>,
}

impl<Out: Send + 'static> Members<Out> {
    pub(super) fn new() -> Self {
        Self {
            list: Vec::new(),
            ends: FuturesUnordered::new(),
        }
    }

    /// Returns the number of sessions that count towards the size of the pool.
    pub(super) fn count(&self) -> usize {
        let members = self.list.iter();
        members
            // (design.md: Why is a session replaced only once its close is complete?)
            .filter(|member| !matches!(member.phase, Phase::Finished))
            .count()
    }

    /// Returns `true` if a session is offered.
    pub(super) fn is_open(&self) -> bool {
        self.offered().next().is_some()
    }

    /// Returns the offered sessions.
    pub(super) fn offered(&self) -> impl Iterator<Item = &Session<Out>> {
        self.list.iter().filter_map(|member| match member.phase {
            Phase::Offered(_) => Some(&member.session),
            _ => None,
        })
    }

    /// Adds a session that was just opened and whose hooks run next.
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

    /// Offers the session whose hooks have finished.
    pub(super) fn offer(&mut self) -> Option<&Session<Out>> {
        let member = self.preparing()?;
        member.phase = Phase::Offered(Instant::now());
        Some(&member.session)
    }

    /// Closes the session whose hook failed.
    pub(super) fn reject(&mut self) {
        if let Some(member) = self.preparing() {
            member.phase = Phase::Rejected;
            member.session.close();
        }
    }

    /// Polls for the next step of a session that ends.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.ends.poll_next_unpin(cx) {
            Poll::Ready(Some(end)) => Poll::Ready(end),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Records that the peer of a session has ended its direction.
    pub(super) fn finished(&mut self, attempt: u64, task: OwnedTask) -> Option<Lost> {
        let (handle, lost) = self.set_phase(attempt, Phase::Finished)?;
        let closing = async move {
            handle.closing().await;
            End::Closing(attempt, task)
        };
        self.ends.push(closing.boxed());
        lost
    }

    /// Records that a session is closing.
    pub(super) fn closing(&mut self, attempt: u64, task: OwnedTask) -> Option<Lost> {
        let (handle, lost) = self.set_phase(attempt, Phase::Closing)?;
        let closed = async move {
            // The session's record has its reason. This is an error of the task around the session.
            if let Err(error) = task.await {
                log(|| tracing::debug!(%error, "the task of a session ended early"));
            }
            End::Closed(attempt, handle.closed().await)
        };
        self.ends.push(closed.boxed());
        lost
    }

    fn position(&self, attempt: u64) -> Option<usize> {
        self.list
            .iter()
            .position(|member| member.attempt == attempt)
    }

    fn set_phase(
        &mut self,
        attempt: u64,
        phase: Phase,
    ) -> Option<(ConnectionHandle, Option<Lost>)> {
        let position = self.position(attempt)?;
        let member = &mut self.list[position];
        let lived = match member.phase {
            Phase::Rejected => return Some((member.session.handle().clone(), None)),
            Phase::Finished | Phase::Closing => None,
            Phase::Preparing => Some(None),
            Phase::Offered(since) => Some(Some(since.elapsed())),
        };
        member.phase = phase;
        let lost = lived.map(|lived| Lost { attempt, lived });
        Some((member.session.handle().clone(), lost))
    }

    /// Removes a closed session. Returns `true` if its end must be reported.
    pub(super) fn remove(&mut self, attempt: u64) -> bool {
        let phase = self
            .position(attempt)
            .map(|position| self.list.remove(position).phase);
        !matches!(phase, None | Some(Phase::Rejected))
    }

    /// Closes all sessions.
    pub(super) fn close(&self, deadline: Duration) {
        for member in &self.list {
            member
                .session
                .close_with(Close::new(CloseReason::Local).with_deadline(deadline));
        }
    }

    /// Aborts the tasks of all sessions.
    pub(super) fn abort(&self) {
        for member in &self.list {
            member.task.abort();
        }
    }

    /// Waits until all sessions have ended, and reports none.
    pub(super) async fn drain(&mut self) {
        while let Some(end) = self.ends.next().await {
            match end {
                End::Finished(attempt, task) => drop(self.finished(attempt, task)),
                End::Closing(attempt, task) => drop(self.closing(attempt, task)),
                End::Closed(attempt, _) => drop(self.remove(attempt)),
            }
        }
    }

    /// Returns a shared list of the offered sessions.
    pub(super) fn to_offer(&self) -> Arc<[Session<Out>]> {
        self.offered().cloned().collect()
    }
}
