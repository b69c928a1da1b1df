//! Pending connections, in the order of their arrival.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use getty_core::{ConnectionHandle, sync::Mutex};
use tokio::sync::oneshot;

/// Policy of [`PendingLimitLayer`](super::PendingLimitLayer) when the limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// Refuses the new connection.
    #[default]
    RefuseNewest,
    /// Admits the new connection and ends the oldest that is pending.
    DropOldest,
}

/// Pending connections of a layer and its clones.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Connections in the order of arrival.
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    handle: ConnectionHandle,
    /// Ends the connection.
    evict: oneshot::Sender<()>,
}

impl Entry {
    fn is_pending(&self) -> bool {
        !self.handle.is_open()
    }
}

impl Pending {
    /// Returns the number of connections whose session is not open.
    pub(super) fn count(&self) -> usize {
        let state = self.0.lock();
        // A session that has opened is in the list until the end of the poll that opened it.
        let pending = state.entries.values().filter(|entry| entry.is_pending());
        pending.count()
    }

    /// Adds a connection. Returns `None` if it must be refused.
    pub(super) fn enter(
        self: &Arc<Self>,
        max: usize,
        overflow: Overflow,
        handle: &ConnectionHandle,
    ) -> Option<Permit> {
        let mut state = self.0.lock();
        let mut oldest = None;
        if state.entries.len() >= max {
            let first = state.entries.first_entry()?;
            if overflow == Overflow::RefuseNewest && first.get().is_pending() {
                return None;
            }
            oldest = Some(first.remove());
        }
        let id = state.next;
        state.next += 1;
        let (evict, evicted) = oneshot::channel();
        let handle = handle.clone();
        state.entries.insert(id, Entry { handle, evict });
        drop(state);
        if let Some(oldest) = oldest {
            // It fails only if that connection ends at the same time. An open session ignores it.
            let _ = oldest.evict.send(());
        }
        Some(Permit {
            pending: Arc::clone(self),
            id,
            evicted,
        })
    }
}

/// One pending connection, which is counted until the drop.
pub(super) struct Permit {
    pending: Arc<Pending>,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl Permit {
    /// Resolves to `true` when the connection must end, or to `false` when its session has opened.
    pub(super) async fn evicted(mut self, handle: ConnectionHandle) -> bool {
        let mut opened = pin!(handle.opened());
        poll_fn(|cx| {
            if let Poll::Ready(evicted) = Pin::new(&mut self.evicted).poll(cx) {
                return Poll::Ready(evicted.is_ok());
            }
            opened.as_mut().poll(cx).map(|_| false)
        })
        .await
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let entry = self.pending.0.lock().entries.remove(&self.id);
        // dropped outside the lock because it may be the last handle
        drop(entry);
    }
}
