//! One socket of a listener, with the table of its peers.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use getty_core::sync::{Mutex, MutexGuard, Signal};

use super::{peer::Peer, settings::Settings, shared::ListenerShared, table::PeerTable};
use crate::net::udp::{socket::Socket, stats::Counters};

/// Flag of the signal to the reader: the listener and all sessions of the socket were gone.
const UNUSED: u8 = 1;

/// One socket of a listener, shared by its reader and the sessions of its peers.
pub(super) struct ListenerSocket {
    socket: Socket,
    table: Mutex<PeerTable>,
    shared: Arc<ListenerShared>,
    /// Raised with [`UNUSED`] for the reader.
    unused: Signal,
}

impl ListenerSocket {
    pub(super) fn new(socket: Socket, shared: Arc<ListenerShared>) -> Self {
        Self {
            socket,
            table: Mutex::default(),
            shared,
            unused: Signal::new(),
        }
    }

    pub(super) fn lock_table(&self) -> MutexGuard<'_, PeerTable> {
        self.table.lock()
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

    /// Returns `true` if the listener and all sessions of the socket are gone. Otherwise wakes the
    /// task of `cx`, which must be the reader, once they are.
    ///
    /// `known` is the reader's copy of the registered waker.
    pub(super) fn is_unused(&self, known: &mut Option<Waker>, cx: &Context<'_>) -> bool {
        self.unused.register(known, cx);
        // checked again because the reader may have opened a session since the flag was raised
        self.unused.take() != 0 && self.lock_table().is_unused()
    }

    /// Records that the listener has been dropped. From now on datagrams of new peers are ignored.
    pub(super) fn close(&self) {
        let mut table = self.lock_table();
        table.close();
        self.unlock_and_raise(table);
    }

    /// Removes the peer of a session that has ended. The peer's next datagram opens a new session.
    pub(super) fn session_ended(&self, key: usize, peer: &Arc<Peer>) {
        let mut table = self.lock_table();
        if table.remove(key, peer) {
            self.shared.peer_removed();
        }
        self.unlock_and_raise(table);
        self.shared.session_ended();
    }

    /// Ends a change of the table. Wakes the reader if the socket is unused now.
    fn unlock_and_raise(&self, table: MutexGuard<'_, PeerTable>) {
        let is_unused = table.is_unused();
        drop(table);
        if is_unused {
            self.unused.raise(UNUSED);
        }
    }
}
