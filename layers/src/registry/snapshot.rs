//! What a dashboard shows of a connection.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use getty_core::{Address, CloseReason, ConnectionHandle, Stats, TransportKind};

/// What was known of a connection at one moment: see [`Registry::snapshot`](super::Registry::snapshot).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What carries it.
    pub transport: TransportKind,
    /// The peer's address.
    pub peer: Address,
    /// Our address.
    pub local: Address,
    /// Whether its session is open.
    pub is_open: bool,
    /// Why it closes, if it does.
    pub closing: Option<CloseReason>,
    /// For how long it has been there.
    pub age: Duration,
    /// For how long no bytes have been received.
    pub since_read: Duration,
    /// For how long no bytes have been sent.
    pub since_write: Duration,
    /// For how long the application has not been active.
    pub since_active: Duration,
    /// How many messages wait to be sent; `None` where the registry does not know the session.
    pub queued: Option<usize>,
    /// How many messages are with their handlers.
    pub in_flight: usize,
    /// What has moved.
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
