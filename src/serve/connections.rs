//! Set of a server's connections, each of which runs on a separate task.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{
    CloseReason, Closed, ConnectionHandle, DrainDeadlineExceeded, SharedError, TransportKind,
    hooks::{HandleExt, defer_refusal, end_refusal},
    sync::{Mutex, MutexGuard, SharedTask, TaskFuture},
};
use pin_project_lite::pin_project;
use slab::Slab;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tower::BoxError;

use super::Drained;
use crate::net::UdpInfo;

/// Live connections of a server. Dropping the set aborts them.
///
/// It is not a `JoinSet`. It keeps a handle beside each task, uses a fraction of the memory,
/// and does nothing when a task ends outside a shutdown.
#[derive(Debug, Default)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified during the drain when a connection ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: Slab<Live>,
    /// Keys of connections that outlived their future because a layer moved them to another task
    /// (design.md: What if a layer moves a connection's future to another task?).
    detached: Vec<usize>,
    draining: bool,
    drained: Drained,
}

#[derive(Debug)]
struct Live {
    handle: ConnectionHandle,
    /// `None` until the task is spawned.
    task: Option<AbortHandle>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Records that a connection has ended.
    fn remove(&self, key: usize, finished: bool) {
        let mut state = self.lock();
        let removed = state.live.try_remove(key);
        let draining = state.draining && removed.is_some();
        if draining {
            state.drained.count(finished);
        }
        drop(state);
        drop(removed);
        if draining {
            self.ended.notify_waiters();
        }
    }

    /// Closes a connection that outlived its future because a layer moved it to another task. The
    /// connection stays in the set until it has ended.
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
            key: u32::try_from(key)
                .unwrap_or_else(|_| unreachable!("file descriptors run out earlier")),
            finished: false,
            polled: false,
            opened: false,
        };
        let drive = Drive { future, membership };
        let task = match udp {
            // The task that reads the socket can poll it too (design.md: Why does the task that
            // reads a socket poll the sessions' futures?).
            Some(udp) => {
                let shared = SharedTask::new(drive);
                udp.set_inline(shared.clone());
                tokio::spawn(TaskFuture::new(shared))
            }
            // (design.md: Why does `serve` have no mode for one runtime per core?)
            None => tokio::spawn(drive),
        }
        .abort_handle();
        // The task may have ended already. Only this method inserts keys, so the key is not reused.
        if let Some(live) = self.0.lock().live.get_mut(key) {
            live.task = Some(task);
        }
    }

    /// Begins the drain. Ends of connections are counted from here on. Aborts connections whose
    /// session is not open yet. Returns the handles of the others. The caller must close them.
    pub(super) fn abort_unopened(&self) -> Vec<ConnectionHandle> {
        let mut state = self.0.lock();
        state.draining = true;
        let (open, unopened): (Vec<_>, Vec<_>) = state
            .live
            .iter()
            .map(|(_, Live { handle, task })| (handle.clone(), task.clone()))
            .partition(|(handle, _)| handle.is_open());
        drop(state);
        // (design.md: Why does a shutdown end connections that are not open yet?)
        for (handle, task) in unopened {
            handle.close_with(CloseReason::Shutdown);
            task.iter().for_each(AbortHandle::abort);
        }
        open.into_iter().map(|(handle, _)| handle).collect()
    }

    /// Waits until all connections have ended or `deadline` has passed. `None` is no deadline.
    pub(super) async fn wait_until(&self, deadline: Option<Instant>) {
        match deadline {
            // A timeout may only drop the wait.
            Some(deadline) => drop(timeout_at(deadline, self.wait()).await),
            None => self.wait().await,
        }
    }

    /// Waits until all connections have ended.
    pub(super) async fn wait(&self) {
        loop {
            // Must be created before the check, so that an end after the check is not missed.
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
        // These run on other tasks and cannot be aborted. They are closing.
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
    /// Task of a connection. It is a named future, because an async block would store the
    /// pipeline's future twice.
    struct Drive<F> {
        #[pin]
        future: F,
        // Must be declared after the future: a connection has ended when its stack is dropped.
        membership: Membership,
    }
}

/// Entry of a connection in the set. Dropping it removes the entry.
struct Membership {
    shared: Arc<Shared>,
    key: u32,
    finished: bool,
    /// The future was polled.
    polled: bool,
    /// The session has opened or will never open.
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

    /// Defers the record of a refusal while the future is polled. It must be called before each
    /// poll of a future whose session is not open. The acceptor does so before the first poll.
    fn defer_refusal(&mut self) {
        if std::mem::replace(&mut self.polled, true)
            && let Some(handle) = self.handle()
        {
            defer_refusal(&handle);
        }
    }

    /// Records a refusal after such a poll.
    fn end_refusal(&mut self) {
        if let Some(handle) = self.handle() {
            end_refusal(&handle, None);
            self.opened = handle.is_open() || handle.is_closed();
        }
    }

    /// Records the error of a future that has failed.
    #[cold]
    fn failed(&self, error: BoxError) {
        let error = SharedError::from(error);
        let Some(handle) = self.handle() else {
            return;
        };
        end_refusal(&handle, Some(Arc::clone(&error)));
        // An end with a source has been logged. A layer logs its ends itself.
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

/// Returns `true` if a connection lost output at its end. A shutdown has a source only if
/// output was left that could not be sent.
fn was_cut_off(closed: &Closed) -> bool {
    closed.source.as_ref().is_some_and(|source| {
        closed.reason == CloseReason::Shutdown || source.is::<DrainDeadlineExceeded>()
    })
}
