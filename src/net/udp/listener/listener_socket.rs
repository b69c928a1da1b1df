//! One socket of a listener, with the table of its peers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures_util::task::AtomicWaker;

use super::{peer::Peer, settings::Settings, shared::ListenerShared, table::PeerTable};
use crate::net::udp::{socket::Socket, stats::Counters};

/// One socket of a listener, shared by its reader and the sessions of its peers.
pub(super) struct ListenerSocket {
    socket: Socket,
    table: Mutex<PeerTable>,
    shared: Arc<ListenerShared>,
    reader: AtomicWaker,
}

impl ListenerSocket {
    pub(super) fn new(socket: Socket, shared: Arc<ListenerShared>) -> Self {
        Self {
            socket,
            table: Mutex::default(),
            shared,
            reader: AtomicWaker::new(),
        }
    }

    pub(super) fn lock_table(&self) -> MutexGuard<'_, PeerTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn shared(&self) -> &ListenerShared {
        &self.shared
    }

    pub(super) fn settings(&self) -> &Settings {
        self.shared.settings()
    }

    pub(super) fn counters(&self) -> &Counters {
        self.shared.counters()
    }

    /// Registers the reader's task, to be woken when it may end.
    ///
    /// The reader must check [`is_unused`](Self::is_unused) after that, and not before.
    pub(super) fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// Wakes the reader, which then checks whether the socket is still used.
    pub(super) fn wake_reader(&self) {
        self.reader.wake();
    }

    /// Returns `true` if the listener and all sessions of the socket are gone.
    pub(super) fn is_unused(&self) -> bool {
        self.shared.is_closed() && self.lock_table().is_empty()
    }

    /// Removes the peer of a session that has ended. The peer's next datagram opens a new session.
    pub(super) fn session_ended(&self, key: usize, peer: &Arc<Peer>) {
        let mut table = self.lock_table();
        if table.remove(key, peer) {
            self.shared.peer_removed();
        }
        let was_last = table.is_empty();
        drop(table);
        self.shared.session_ended();
        if was_last && self.shared.is_closed() {
            self.reader.wake();
        }
    }
}
