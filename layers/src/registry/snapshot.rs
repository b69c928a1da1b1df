//! Values of a connection for a dashboard.

use std::{sync::Arc, time::Duration};

use getty_core::{Address, CloseReason, ConnectionHandle, Stats, TransportKind};
use tokio::time::Instant;

/// Values of a connection at one time; see [`Registry::snapshot`](super::Registry::snapshot).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Id of the connection, unique in the process.
    pub id: u64,
    /// Name of the connection.
    pub name: Arc<str>,
    /// Kind of transport.
    pub transport: TransportKind,
    /// Address of the peer.
    pub peer: Address,
    /// Local address.
    pub local: Address,
    /// `true` if the session is open.
    pub is_open: bool,
    /// Close reason or `None` if the connection is not closing.
    pub closing: Option<CloseReason>,
    /// Time since accept or connect.
    pub age: Duration,
    /// Time since the last received byte.
    pub since_read: Duration,
    /// Time since the last sent byte.
    pub since_write: Duration,
    /// Time since the last activity of the application.
    pub since_active: Duration,
    /// Number of messages that wait to be encoded or `None` in an untyped registry.
    pub queued: Option<usize>,
    /// Number of messages in flight in handlers.
    pub in_flight: usize,
    /// Counters of bytes and messages.
    pub stats: Stats,
}

impl Snapshot {
    pub(super) fn new(handle: &ConnectionHandle, queued: Option<usize>, now: Instant) -> Self {
        let since = |then| now.saturating_duration_since(then);
        Self {
            id: handle.id(),
            name: handle.name(),
            transport: handle.transport(),
            peer: handle.peer_addr().clone(),
            local: handle.local_addr().clone(),
            is_open: handle.is_open(),
            closing: handle.reason(),
            age: since(handle.opened_at()),
            since_read: since(handle.last_read()),
            since_write: since(handle.last_write()),
            since_active: since(handle.last_active()),
            queued,
            in_flight: handle.in_flight(),
            stats: handle.stats(),
        }
    }
}
