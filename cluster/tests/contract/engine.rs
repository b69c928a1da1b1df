//! The bus that a test runs over.

use std::{
    ops::Deref,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty_cluster::{
    Cluster, ClusterBuilder,
    bus::{Bus, Fault, Memory, Sharded},
};

use crate::{
    spy::{Fate, Faults, Spy},
    support::until,
};

/// Longest time until a topic is subscribed to.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Declares the tests of a module: functions that take a [`Net`].
///
/// Each runs over the bus in memory and over two shards in memory, with a paused clock. Those
/// of the first list also run over each server, and those of the second if there is more time.
/// With `shards: 2` they need two shards.
macro_rules! contract {
    (@over $module:ident, $shards:literal, $($test:ident)*) => {
        mod $module {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test($crate::engine::Net::shards($shards)).await;
            })*
        }
    };
    (@cases $name:ident, $($test:ident)*) => {
        #[cfg(all(feature = "nats", feature = "redis"))]
        pub(crate) const $name: &[$crate::engines::Case] =
            &[$((stringify!($test), |net| Box::pin($test(net)))),*];
    };
    (
        servers: [$($test:ident),* $(,)?],
        long: [$($long:ident),* $(,)?],
        memory: [$($memory:ident),* $(,)?] $(,)?
    ) => {
        contract! { @over over_memory, 1, $($test)* $($long)* $($memory)* }
        contract! {
            shards: 2,
            servers: [$($test),*],
            long: [$($long),*],
            memory: [$($memory),*],
        }
    };
    (
        shards: 2,
        servers: [$($test:ident),* $(,)?],
        long: [$($long:ident),* $(,)?],
        memory: [$($memory:ident),* $(,)?] $(,)?
    ) => {
        contract! { @over over_two_shards, 2, $($test)* $($long)* $($memory)* }
        contract! { @cases SERVERS, $($test)* }
        contract! { @cases LONG, $($long)* }
    };
}
pub(crate) use contract;

/// A bus, for any number of nodes of one cluster.
pub(crate) struct Net {
    kind: NetKind,
    namespace: String,
    fate: Arc<Mutex<Option<Box<Fate>>>>,
}

/// Shards of a bus, or the only one.
enum NetKind {
    Memory(Vec<Memory>),
    #[cfg(all(feature = "nats", feature = "redis"))]
    Server(crate::server::Kind, Vec<u16>),
}

/// Connection of a node to a shard, which can be cut.
enum Link {
    Memory(Memory),
    #[cfg(all(feature = "nats", feature = "redis"))]
    Server(crate::proxy::Proxy),
}

/// A node, and the faults of its bus.
pub(crate) struct Node {
    cluster: Cluster,
    links: Vec<Link>,
    pub(crate) faults: Arc<Faults>,
}

impl Net {
    pub(crate) fn memory() -> Self {
        Self::shards(1)
    }

    /// Creates a net of shards in memory.
    pub(crate) fn shards(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Memory::new());
        Self {
            kind: NetKind::Memory(shards.collect()),
            namespace: "test".to_owned(),
            fate: Arc::default(),
        }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn named(namespace: &str, shards: usize) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..Self::shards(shards)
        }
    }

    #[cfg(all(feature = "nats", feature = "redis"))]
    pub(crate) fn servers(kind: crate::server::Kind, ports: Vec<u16>, namespace: String) -> Self {
        Self {
            kind: NetKind::Server(kind, ports),
            namespace,
            fate: Arc::default(),
        }
    }

    /// Sets a function that decides about each frame to each node, by the place of the node, the
    /// subject and the frame.
    pub(crate) fn set_fate(&self, fate: impl FnMut(usize, &str, &[u8]) -> Fault + Send + 'static) {
        *self.fate.lock().unwrap() = Some(Box::new(fate));
    }

    pub(crate) const fn is_memory(&self) -> bool {
        matches!(self.kind, NetKind::Memory(_))
    }

    /// Returns the number of shards.
    pub(crate) fn len(&self) -> usize {
        match &self.kind {
            NetKind::Memory(buses) => buses.len(),
            #[cfg(all(feature = "nats", feature = "redis"))]
            NetKind::Server(_, ports) => ports.len(),
        }
    }

    /// Returns a time within which a message between nodes arrives.
    pub(crate) const fn soon(&self) -> Duration {
        if self.is_memory() {
            Duration::from_millis(10)
        } else {
            Duration::from_secs(3)
        }
    }

    /// Starts a node.
    pub(crate) fn node(&self, place: usize) -> Node {
        self.node_with(place, |builder| builder)
    }

    pub(crate) fn node_with(
        &self,
        place: usize,
        settings: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Node {
        let (bus, links): (Box<dyn Bus>, Vec<_>) = match &self.kind {
            NetKind::Memory(buses) => {
                let ports = buses.clone();
                let mut buses: Vec<_> = ports.iter().map(Memory::same_node).collect();
                let bus: Box<dyn Bus> = match buses.len() {
                    1 => Box::new(buses.remove(0)),
                    _ => Box::new(Sharded::new(buses)),
                };
                (bus, ports.into_iter().map(Link::Memory).collect())
            }
            #[cfg(all(feature = "nats", feature = "redis"))]
            NetKind::Server(kind, ports) => {
                let proxies = ports.iter().map(|port| crate::proxy::Proxy::start(*port));
                let proxies: Vec<_> = proxies.collect();
                let urls: Vec<_> = proxies.iter().map(|it| kind.url(it.port())).collect();
                let bus = getty_cluster::bus::from_url(&urls.join("|"));
                let links = proxies.into_iter().map(Link::Server).collect();
                (bus.expect("the URLs are valid"), links)
            }
        };
        let faults = Arc::<Faults>::default();
        let spy = Spy::new(bus, place, Arc::clone(&self.fate), Arc::clone(&faults));
        let builder = Cluster::of(&self.namespace).over(spy);
        Node {
            cluster: settings(builder).start(),
            links,
            faults,
        }
    }

    /// Starts nodes and waits until each knows all others.
    pub(crate) async fn nodes<const N: usize>(&self) -> [Node; N] {
        let nodes = std::array::from_fn(|place| self.node(place));
        for node in &nodes {
            node.up().await;
            until(|| node.nodes().len() == N - 1).await;
        }
        nodes
    }
}

impl Node {
    /// Cuts the node off from the bus, and waits until it has noticed.
    pub(crate) async fn cut(&self) {
        self.cut_at_once();
        self.down().await;
    }

    pub(crate) fn cut_at_once(&self) {
        self.links.iter().for_each(|link| link.set(false));
    }

    /// Connects the node again, and waits until it is up.
    pub(crate) async fn reconnect(&self) {
        self.links.iter().for_each(|link| link.set(true));
        self.up().await;
    }

    /// Cuts the node off from a shard, or connects it again, and waits until it has noticed.
    pub(crate) async fn set_shard(&self, place: usize, connected: bool) {
        self.links[place].set(connected);
        until(|| self.shards()[place].state.is_up() == connected).await;
    }

    /// Returns the bus in memory as text, which has the number of its subscriptions.
    pub(crate) fn port(&self) -> String {
        let ports = self.links.iter().map(|link| match link {
            Link::Memory(port) => format!("{port:?}"),
            #[cfg(all(feature = "nats", feature = "redis"))]
            Link::Server(_) => String::new(),
        });
        ports.collect()
    }
}

impl Link {
    fn set(&self, connected: bool) {
        match self {
            Self::Memory(port) => port.set_connected(connected),
            #[cfg(all(feature = "nats", feature = "redis"))]
            Self::Server(proxy) => proxy.set(if connected {
                crate::proxy::Mode::Pass
            } else {
                crate::proxy::Mode::Reset
            }),
        }
    }
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
