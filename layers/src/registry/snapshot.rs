//! Values of a connection for a dashboard.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use getty_core::{Address, CloseReason, ConnectionHandle, Stats, TransportKind};
use tokio::time::Instant;

/// Values of a connection at one time; see [`Registry::snapshot`](super::Registry::snapshot).
///
/// With the feature `serde` it implements `serde::Serialize`: addresses and the transport are
/// text, the close reason is its [label](CloseReason::as_str), and times are seconds.
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
    /// Attributes that the registry [shows](super::Registry::show_attribute), by their labels.
    pub attributes: BTreeMap<&'static str, String>,
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
            attributes: BTreeMap::new(),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Snapshot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let Self {
            id,
            name,
            transport,
            peer,
            local,
            is_open,
            closing,
            age,
            since_read,
            since_write,
            since_active,
            queued,
            in_flight,
            stats,
            attributes,
        } = self;
        let mut snapshot = serializer.serialize_struct("Snapshot", 15)?;
        snapshot.serialize_field("id", id)?;
        snapshot.serialize_field("name", &**name)?;
        snapshot.serialize_field("transport", transport)?;
        snapshot.serialize_field("peer", peer)?;
        snapshot.serialize_field("local", local)?;
        snapshot.serialize_field("is_open", is_open)?;
        snapshot.serialize_field("closing", closing)?;
        for (field, time) in [
            ("age", age),
            ("since_read", since_read),
            ("since_write", since_write),
            ("since_active", since_active),
        ] {
            snapshot.serialize_field(field, &time.as_secs_f64())?;
        }
        snapshot.serialize_field("queued", queued)?;
        snapshot.serialize_field("in_flight", in_flight)?;
        snapshot.serialize_field("stats", stats)?;
        snapshot.serialize_field("attributes", attributes)?;
        snapshot.end()
    }
}
