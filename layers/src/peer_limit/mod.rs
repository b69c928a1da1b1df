//! Limits the number of connections of each peer.
//!
//! - *ready*: as the inner service.
//! - *call*: counts the connection for its peer and calls the inner service. A connection
//!   beyond the limit is refused: it closes as [`Refused`](getty_core::CloseReason::Refused),
//!   and a [`TooManyConnections`] is its source and the error of this service.
//! - *drop*: drops the inner future.
//! - *close*: a connection counts from the call until its transport is dropped, even if its
//!   session never opens and however it ends. A close callback releases its permit.
//!
//! Scope: peer. A peer is an IP address or a network; see [`PeerLimitLayer::with_prefixes`].
//! The default is an IPv4 address or the first 64 bits of an IPv6 address, which one subscriber
//! usually has. IPv4-mapped IPv6 addresses count as IPv4. All clones of the layer and of its
//! services share the counts, so all listeners of a stack do. Peers without an IP address (Unix
//! sockets and in-memory transports) are not counted. A peer without connections uses no
//! memory.
//!
//! Place it among the first layers, outside those that do expensive work before the session
//! (TLS, compression) and inside [`AccessLayer`](crate::AccessLayer) and tower's
//! `concurrency_limit`, which limits all peers together. In the opposite order the listener
//! keeps the permit that was reserved for a refused connection until its next connection.
//! Behind a load balancer it belongs inside `ProxyProtocolLayer`: outside, all clients of a
//! proxy are one peer. Two of these layers may be stacked: one for addresses, one for wider
//! networks.
//!
//! ```
//! use getty_core::{Address, Connection, Endpoints, TransportKind};
//! use getty_layers::PeerLimitLayer;
//! use getty_layers::peer_limit::TooManyConnections;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let limit = PeerLimitLayer::new(1);
//! let mut stack = ServiceBuilder::new()
//!     .layer(limit.clone())
//!     .service_fn(|connection: Connection<()>| async { Ok::<_, BoxError>(connection) });
//!
//! let peer = Address::Ip("192.0.2.7:4096".parse()?);
//! let connection = || {
//!     let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.clone());
//!     Connection::with_endpoints((), endpoints)
//! };
//! let first = stack.ready().await?.call(connection()).await?;
//! let error = stack.ready().await?.call(connection()).await.unwrap_err();
//! assert!(error.is::<TooManyConnections>());
//!
//! drop(first);
//! assert!(stack.ready().await?.call(connection()).await.is_ok());
//! assert_eq!(limit.peers(), 0);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use getty_core::{
    Connection,
    sync::{Mutex, MutexGuard},
};
use ipnet::IpNet;
use tower_layer::Layer;

pub use crate::admission::ResponseFuture;

use crate::admission::{Admission, Admit};

/// Limits the number of connections of each peer; see the [module](self).
#[doc(alias = "throttle")]
#[derive(Clone, Debug)]
pub struct PeerLimitLayer {
    counts: Arc<Counts>,
    max: u32,
    v4: u8,
    v6: u8,
}

impl PeerLimitLayer {
    /// Creates a new layer that allows at most `max` connections of a peer at a time.
    ///
    /// Zero refuses every peer with an IP address.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            counts: Arc::default(),
            max,
            v4: 32,
            v6: 64,
        }
    }

    /// Sets the number of leading bits of an IPv4 and of an IPv6 address that identify a peer. The
    /// default is 32 and 64, the maximum 32 and 128.
    #[must_use]
    pub const fn with_prefixes(mut self, v4: u8, v6: u8) -> Self {
        self.v4 = if v4 < 32 { v4 } else { 32 };
        self.v6 = if v6 < 128 { v6 } else { 128 };
        self
    }

    /// Returns the current number of connections of the peer with this address.
    #[must_use]
    pub fn connections(&self, ip: IpAddr) -> u32 {
        let counts = self.counts.lock();
        counts.get(&self.peer(ip)).copied().unwrap_or(0)
    }

    /// Returns the current number of peers with connections.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.counts.lock().len()
    }

    fn peer(&self, ip: IpAddr) -> IpNet {
        let ip = ip.to_canonical();
        let length = if ip.is_ipv4() { self.v4 } else { self.v6 };
        IpNet::new(ip, length).map_or_else(|_| ip.into(), |network| network.trunc())
    }
}

impl Admit for PeerLimitLayer {
    type Refusal = TooManyConnections;

    /// Counts `connection` until it has closed unless its peer has reached the limit.
    fn admit<T>(&self, connection: &Connection<T>) -> Result<(), TooManyConnections> {
        let handle = connection.handle();
        let Some(ip) = handle.peer_addr().ip() else {
            return Ok(());
        };
        let Some(permit) = ConnectionPermit::acquire(&self.counts, self.peer(ip), self.max) else {
            return Err(TooManyConnections {
                peer: ip.to_canonical(),
                network: self.peer(ip),
                limit: self.max,
            });
        };
        // The callback owns the permit, so it is released even if the callback is removed.
        let key = Key(Arc::clone(&self.counts));
        handle.add_close_callback(key, (), move |_| drop(permit));
        Ok(())
    }
}

/// Number of connections of each peer. Peers without connections have no entry.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<IpNet, u32>>);

impl Counts {
    // No user code runs under the lock, so a poisoned map is still consistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpNet, u32>> {
        self.0.lock()
    }
}

/// Key of the close callback: the identity of a limit.
struct Key(Arc<Counts>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Key {}

// Keys of close callbacks are hashed (design.md: Why must the keys of close callbacks be
// `Hash`?).
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Permit for one connection of a peer, released by its drop.
struct ConnectionPermit {
    counts: Arc<Counts>,
    peer: IpNet,
}

impl ConnectionPermit {
    fn acquire(counts: &Arc<Counts>, peer: IpNet, max: u32) -> Option<Self> {
        let mut map = counts.lock();
        match map.entry(peer) {
            Entry::Occupied(mut used) if *used.get() < max => *used.get_mut() += 1,
            Entry::Vacant(free) if max > 0 => {
                free.insert(1);
            }
            _ => return None,
        }
        drop(map);
        Some(Self {
            counts: Arc::clone(counts),
            peer,
        })
    }
}

/// Capacity up to which the map keeps its memory. A larger map shrinks when it is three
/// quarters empty.
const MIN_CAPACITY: usize = 64;

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut map = self.counts.lock();
        if let Entry::Occupied(mut used) = map.entry(self.peer) {
            *used.get_mut() -= 1;
            if *used.get() == 0 {
                used.remove();
            }
        }
        // A map never shrinks by itself, so a peak of peers would use its memory permanently.
        if map.capacity() > MIN_CAPACITY && map.len() < map.capacity() / 4 {
            let half = map.capacity() / 2;
            map.shrink_to(half);
        }
    }
}

impl<S> Layer<S> for PeerLimitLayer {
    type Service = PeerLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Admission::new(inner, self.clone())
    }
}

/// Service of [`PeerLimitLayer`].
pub type PeerLimit<S> = Admission<S, PeerLimitLayer>;

/// Error of [`PeerLimit`]: the peer has reached its limit of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyConnections {
    peer: IpAddr,
    network: IpNet,
    limit: u32,
}

impl TooManyConnections {
    /// Returns the address of the refused peer.
    #[must_use]
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Returns the network that was counted: the address alone or the network of its prefix.
    #[must_use]
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// Returns the maximum number of connections.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }
}

impl fmt::Display for TooManyConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            network,
            limit,
        } = self;
        write!(
            f,
            "{peer} exceeds the limit of {limit} connections for {network}"
        )
    }
}

impl Error for TooManyConnections {}

#[cfg(all(test, not(getty_loom)))]
mod tests;
