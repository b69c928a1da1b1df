//! The connections of a server: one task each.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use getty_layers::{CloseReason, Closed, ConnectionHandle, DrainDeadlineExceeded, TransportKind};
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
        let tasks: Vec<_> = self
            .0
            .lock()
            .live
            .iter()
            .filter_map(|(_, live)| live.task.clone())
            .collect();
        tasks.iter().for_each(AbortHandle::abort);
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
}

impl Membership {
    fn handle(&self) -> Option<ConnectionHandle> {
        let state = self.shared.lock();
        state
            .live
            .get(self.key as usize)
            .map(|live| live.handle.clone())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let gone = state.live.try_remove(self.key as usize);
        let draining = state.draining;
        if draining {
            let count = if self.finished {
                &mut state.drained.finished
            } else {
                &mut state.drained.aborted
            };
            *count += 1;
        }
        drop(state);
        drop(gone);
        if draining {
            self.shared.ended.notify_waiters();
        }
    }
}

impl<F, E> Future for Drive<F>
where
    F: Future<Output = Result<Closed, E>>,
    E: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match ready!(this.future.poll(cx)) {
            Ok(closed) => this.membership.finished = !was_cut_off(&closed),
            Err(error) => {
                // an end with a source has a line, and so has one that a layer logs
                if let Some(handle) = this.membership.handle()
                    && handle.logs_end()
                {
                    handle.set_logs_end(false);
                    let error: BoxError = error.into();
                    let what = if handle.is_open() {
                        "a session ended"
                    } else {
                        "a connection ended before its session opened"
                    };
                    tracing::debug!(
                        target: "getty::session",
                        connection = %handle,
                        reason = handle.reason().map(|reason| reason.as_str()),
                        error = &*error,
                        "{what}"
                    );
                }
            }
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
