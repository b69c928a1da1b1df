//! Limits the connections of each peer.
//!
//! - *ready*: the inner service's.
//! - *call*: counts the connection for its peer and passes it on. One beyond the limit is refused: it closes as
//!   [`Refused`](getty_core::CloseReason::Refused), with [`TooManyConnections`] as its source and as the error of this service.
//! - *drop*: nothing of its own.
//! - *close*: a connection counts from the call until its transport is gone, be its session open or not, and however it
//!   ends: what gives its place back is a close callback.
//!
//! Scope: peer. A peer is an IP address, or a network where [`PeerLimitLayer::with_prefixes`] says so; by default an IPv4
//! address or the first 64 bits of an IPv6 one, which is what one subscriber has. IPv4 addresses that come as IPv6 ones
//! are IPv4 addresses. The counts are shared by all clones of the layer and of its services, so by all listeners of a
//! stack. Peers without an IP address, of Unix sockets or in memory, are not counted. Nothing is kept for a peer that has
//! no connection.
//!
//! In a stack it is among the first, outside whatever costs something before the session (TLS, compression), and inside
//! `AccessLayer` and tower's `concurrency_limit`, which caps all peers together: the other way round, the permit that a
//! refused connection had reserved lies with the listener until its next connection. Two of them, for addresses and for
//! wider networks, are as good as one.
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
//!     Connection::with_endpoints((), Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.clone()))
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use getty_core::Connection;
use ipnet::IpNet;
use tower_layer::Layer;
use tower_service::Service;

pub use crate::refusal::ResponseFuture;

type BoxError = Box<dyn Error + Send + Sync>;

/// Limits the connections of each peer; see the [module](self).
#[derive(Clone, Debug)]
pub struct PeerLimitLayer {
    counts: Arc<Counts>,
    most: u32,
    v4: u8,
    v6: u8,
}

impl PeerLimitLayer {
    /// At most so many connections of a peer at a time; 0 refuses everybody who has an IP address.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            counts: Arc::default(),
            most,
            v4: 32,
            v6: 64,
        }
    }

    /// How many bits of an IPv4 and of an IPv6 address tell peers apart: 32 and 64 by default, at most 32 and 128.
    #[must_use]
    pub const fn with_prefixes(mut self, v4: u8, v6: u8) -> Self {
        self.v4 = if v4 < 32 { v4 } else { 32 };
        self.v6 = if v6 < 128 { v6 } else { 128 };
        self
    }

    /// How many connections the peer with this address has now.
    #[must_use]
    pub fn connections(&self, ip: IpAddr) -> u32 {
        let counts = self.counts.lock();
        counts.get(&self.peer(ip)).copied().unwrap_or(0)
    }

    /// How many peers have connections now.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.counts.lock().len()
    }

    fn peer(&self, ip: IpAddr) -> IpNet {
        let ip = ip.to_canonical();
        let length = if ip.is_ipv4() { self.v4 } else { self.v6 };
        IpNet::new(ip, length).map_or_else(|_| ip.into(), |network| network.trunc())
    }

    /// Counts `connection`; it stays counted until it has closed.
    fn admit<T>(&self, connection: &Connection<T>) -> Result<(), TooManyConnections> {
        let handle = connection.handle();
        let Some(ip) = handle.peer_addr().ip() else {
            return Ok(());
        };
        let Some(place) = Place::take(&self.counts, self.peer(ip), self.most) else {
            return Err(TooManyConnections {
                peer: ip.to_canonical(),
                network: self.peer(ip),
                limit: self.most,
            });
        };
        // whatever becomes of the callback, the place goes with it
        let key = Key(Arc::clone(&self.counts));
        handle.add_close_callback(key, (), move |_| drop(place));
        Ok(())
    }
}

/// How many connections each peer has; no entry is 0.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<IpNet, u32>>);

impl Counts {
    // no code of others runs under the lock, so that what it guards is whole whatever panics
    fn lock(&self) -> MutexGuard<'_, HashMap<IpNet, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which limit a close callback belongs to.
struct Key(Arc<Counts>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// A place among a peer's connections, given back when it is dropped.
struct Place {
    counts: Arc<Counts>,
    peer: IpNet,
}

impl Place {
    fn take(counts: &Arc<Counts>, peer: IpNet, most: u32) -> Option<Self> {
        let mut map = counts.lock();
        match map.entry(peer) {
            Entry::Occupied(mut taken) if *taken.get() < most => *taken.get_mut() += 1,
            Entry::Vacant(free) if most > 0 => {
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

/// A table with so many places to spare is made smaller when it is three quarters empty.
const SPARE: usize = 64;

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.counts.lock();
        if let Entry::Occupied(mut taken) = map.entry(self.peer) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
        // a map keeps its memory: a crowd that has left would be felt for ever
        if map.capacity() > SPARE && map.len() < map.capacity() / 4 {
            let half = map.capacity() / 2;
            map.shrink_to(half);
        }
    }
}

impl<S> Layer<S> for PeerLimitLayer {
    type Service = PeerLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PeerLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`PeerLimitLayer`] makes.
#[derive(Clone, Debug)]
pub struct PeerLimit<S> {
    inner: S,
    layer: PeerLimitLayer,
}

impl<S> PeerLimit<S> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T> Service<Connection<T>> for PeerLimit<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, T>;

    /// Reserves what the inner service reserves. A connection that is refused leaves that for the next one; it is given
    /// back when the service is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        match self.layer.admit(&connection) {
            Ok(()) => ResponseFuture::passed(self.inner.call(connection)),
            Err(error) => ResponseFuture::refused(connection, error),
        }
    }
}

/// A peer has as many connections as it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyConnections {
    peer: IpAddr,
    network: IpNet,
    limit: u32,
}

impl TooManyConnections {
    /// The address that was refused.
    #[must_use]
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// What it was counted with: the address itself, or its network.
    #[must_use]
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// How many connections are allowed.
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
            "{peer} is one too many: {network} has the {limit} connections that it may have"
        )
    }
}

impl Error for TooManyConnections {}

#[cfg(all(test, not(getty_loom)))]
mod tests;
