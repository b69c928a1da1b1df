//! The connections of a server: one task each.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use getty_core::{
    CloseReason, Closed, ConnectionHandle, DrainDeadlineExceeded, SharedError, TransportKind,
    driver::{defer_refusal, end_refusal},
};
use pin_project_lite::pin_project;
use slab::Slab;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tower::BoxError;

use super::{
    Drained,
    lent::{Lent, Owner},
};
use crate::net::UdpInfo;

/// The live connections. Dropped, it aborts them.
///
/// Not a `JoinSet`: a handle is wanted for each connection as well as its task, for a fraction of the memory, and a
/// server has nothing to do when one of them ends.
#[derive(Debug, Default)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// While it drains: a connection has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: Slab<Live>,
    /// Keys of connections that have outlived their future, because a layer has moved them to
    /// another task.
    detached: Vec<usize>,
    draining: bool,
    drained: Drained,
}

#[derive(Debug)]
struct Live {
    handle: ConnectionHandle,
    /// None until it is spawned.
    task: Option<AbortHandle>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection has ended.
    fn remove(&self, key: usize, finished: bool) {
        let mut state = self.lock();
        let gone = state.live.try_remove(key);
        let draining = state.draining && gone.is_some();
        if draining {
            state.drained.count(finished);
        }
        drop(state);
        drop(gone);
        if draining {
            self.ended.notify_waiters();
        }
    }

    /// Closes a connection that has outlived its future, because a layer has moved it to another
    /// task. It stays in the list until it has ended.
    #[cold]
    fn detach(self: &Arc<Self>, key: usize, handle: &ConnectionHandle) {
        #[derive(PartialEq, Eq, Hash)]
        struct Detached;

        self.lock().detached.push(key);
        handle.close_with(CloseReason::Dropped);
        let shared = Arc::clone(self);
        handle.add_close_callback(Detached, key, move |closed| {
            shared.lock().detached.retain(|detached| *detached != key);
            shared.remove(key, !was_cut_off(closed));
        });
    }
}

impl Connections {
    pub(super) fn spawn<F, E>(&mut self, handle: ConnectionHandle, future: F)
    where
        F: Future<Output = Result<Closed, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let udp = match handle.transport() {
            TransportKind::Udp => handle.get::<UdpInfo>(),
            _ => None,
        };
        let key = self.0.lock().live.insert(Live { handle, task: None });
        let membership = Membership {
            shared: Arc::clone(&self.0),
            key: u32::try_from(key).unwrap_or_else(|_| unreachable!("so many have no descriptors")),
            finished: false,
            polled: false,
            opened: false,
        };
        let drive = Drive { future, membership };
        let task = match udp {
            // the task that reads the socket may poll it, too
            Some(udp) => {
                let lent = Lent::new(drive);
                udp.lend(lent.clone());
                tokio::spawn(Owner(lent))
            }
            None => tokio::spawn(drive),
        }
        .abort_handle();
        // it may have ended already; its key is not used again, for connections come from here alone
        if let Some(live) = self.0.lock().live.get_mut(key) {
            live.task = Some(task);
        }
    }

    /// From here on how connections end is counted. Those whose session is not open yet end now; the others are given
    /// back, to be closed.
    pub(super) fn abort_unopened(&self) -> Vec<ConnectionHandle> {
        let mut state = self.0.lock();
        state.draining = true;
        let (open, unopened): (Vec<_>, Vec<_>) = state
            .live
            .iter()
            .map(|(_, Live { handle, task })| (handle.clone(), task.clone()))
            .partition(|(handle, _)| handle.is_open());
        drop(state);
        for (handle, task) in unopened {
            handle.close_with(CloseReason::Shutdown);
            task.iter().for_each(AbortHandle::abort);
        }
        open.into_iter().map(|(handle, _)| handle).collect()
    }

    /// Waits until all have ended, or `deadline` has passed; without one, for ever.
    pub(super) async fn wait_until(&self, deadline: Option<Instant>) {
        match deadline {
            // what the time-out drops is only the wait
            Some(deadline) => drop(timeout_at(deadline, self.wait()).await),
            None => self.wait().await,
        }
    }

    /// Waits until all have ended.
    pub(super) async fn wait(&self) {
        loop {
            // made before the look: it sees every end from here on
            let ended = self.0.ended.notified();
            if self.0.lock().live.is_empty() {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn abort_all(&self) {
        let mut state = self.0.lock();
        let tasks: Vec<_> = state
            .live
            .iter()
            .filter_map(|(_, live)| live.task.clone())
            .collect();
        let detached = std::mem::take(&mut state.detached);
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
        // these run on other tasks: they are closing, and cannot be aborted
        detached
            .into_iter()
            .for_each(|key| self.0.remove(key, false));
    }

    pub(super) fn drained(&self) -> Drained {
        self.0.lock().drained
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.abort_all();
    }
}

pin_project! {
    #[project = Projected]
    /// A connection's task: a named future, because an async block would hold the pipeline's future twice.
    struct Drive<F> {
        #[pin]
        future: F,
        // after the future: a connection has ended when its stack is gone
        membership: Membership,
    }
}

/// A connection's place among the live ones, left when it is dropped.
struct Membership {
    shared: Arc<Shared>,
    key: u32,
    finished: bool,
    /// The future was polled.
    polled: bool,
    /// The session has opened, or will not.
    opened: bool,
}

impl Membership {
    fn handle(&self) -> Option<ConnectionHandle> {
        let state = self.shared.lock();
        let live = state.live.get(self.key as usize)?;
        Some(live.handle.clone())
    }

    /// Returns the handle, unless the connection has ended.
    fn unclosed(&self) -> Option<ConnectionHandle> {
        let state = self.shared.lock();
        let live = state.live.get(self.key as usize)?;
        (!live.handle.is_closed()).then(|| live.handle.clone())
    }

    /// Called before a poll of a future whose session is not open. Before the first poll the
    /// acceptor has done it.
    fn defer_refusal(&mut self) {
        if std::mem::replace(&mut self.polled, true)
            && let Some(handle) = self.handle()
        {
            defer_refusal(&handle);
        }
    }

    /// Called after such a poll.
    fn end_refusal(&mut self) {
        if let Some(handle) = self.handle() {
            end_refusal(&handle, None);
            self.opened = handle.is_open() || handle.is_closed();
        }
    }

    /// Called when the future has failed.
    #[cold]
    fn failed(&self, error: BoxError) {
        let error = SharedError::from(error);
        let Some(handle) = self.handle() else {
            return;
        };
        end_refusal(&handle, Some(Arc::clone(&error)));
        // an end with a source has a line, and so has one that a layer logs
        if !handle.logs_end() {
            return;
        }
        handle.set_logs_end(false);
        let what = if handle.is_open() {
            "a session ended"
        } else {
            "a connection ended before its session opened"
        };
        tracing::debug!(
            target: "getty::session",
            connection = %handle,
            reason = handle.reason().map(|reason| reason.as_str()),
            error = &*error as &dyn std::error::Error,
            "{what}"
        );
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let key = self.key as usize;
        if let Some(handle) = self.unclosed() {
            end_refusal(&handle, None);
            if !handle.is_closed() {
                return self.shared.detach(key, &handle);
            }
        }
        self.shared.remove(key, self.finished);
    }
}

impl<F, E> Future for Drive<F>
where
    F: Future<Output = Result<Closed, E>>,
    E: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Projected { future, membership } = self.project();
        let opened = membership.opened;
        if !opened {
            membership.defer_refusal();
        }
        match future.poll(cx) {
            Poll::Pending => {
                if !opened {
                    membership.end_refusal();
                }
                return Poll::Pending;
            }
            Poll::Ready(Ok(closed)) => membership.finished = !was_cut_off(&closed),
            Poll::Ready(Err(error)) => membership.failed(error.into()),
        }
        Poll::Ready(())
    }
}

/// A shutdown has no source of its own: one was noted because something was left that could not leave.
fn was_cut_off(closed: &Closed) -> bool {
    closed.source.as_ref().is_some_and(|source| {
        closed.reason == CloseReason::Shutdown || source.is::<DrainDeadlineExceeded>()
    })
}
