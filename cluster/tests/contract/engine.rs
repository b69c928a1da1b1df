//! The bus that a test runs over.

use std::{
    ops::Deref,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty_cluster::{
    Cluster, ClusterBuilder,
    bus::{Bus, Fault, Memory},
};

use crate::{
    spy::{Fate, Faults, Spy},
    support::until,
};

/// Longest time until a topic is subscribed to.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Declares the tests of a module: functions that take a [`Net`].
///
/// Each runs over the bus in memory with a paused clock. Those of the first list also run over
/// each server, and those of the second too if there is more time.
macro_rules! contract {
    (
        servers: [$($test:ident),* $(,)?],
        long: [$($long:ident),* $(,)?],
        memory: [$($memory:ident),* $(,)?] $(,)?
    ) => {
        mod over_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test($crate::engine::Net::memory()).await;
            })*
            $(#[tokio::test(start_paused = true)]
            async fn $long() {
                super::$long($crate::engine::Net::memory()).await;
            })*
            $(#[tokio::test(start_paused = true)]
            async fn $memory() {
                super::$memory($crate::engine::Net::memory()).await;
            })*
        }

        #[cfg(all(feature = "nats", feature = "redis"))]
        pub(crate) const SERVERS: &[$crate::engines::Case] =
            &[$((stringify!($test), |net| Box::pin($test(net)))),*];
        #[cfg(all(feature = "nats", feature = "redis"))]
        pub(crate) const LONG: &[$crate::engines::Case] =
            &[$((stringify!($long), |net| Box::pin($long(net)))),*];
    };
}
pub(crate) use contract;

/// A bus, for any number of nodes of one cluster.
pub(crate) struct Net {
    kind: NetKind,
    namespace: String,
    fate: Arc<Mutex<Option<Box<Fate>>>>,
}

enum NetKind {
    Memory(Memory),
    #[cfg(all(feature = "nats", feature = "redis"))]
    Server(crate::server::Kind, u16),
}

/// Connection of a node, which can be cut.
enum Link {
    Memory(Memory),
    #[cfg(all(feature = "nats", feature = "redis"))]
    Server(crate::proxy::Proxy),
}

/// A node, and the faults of its bus.
pub(crate) struct Node {
    cluster: Cluster,
    link: Link,
    pub(crate) faults: Arc<Faults>,
}

impl Net {
    pub(crate) fn memory() -> Self {
        Self {
            kind: NetKind::Memory(Memory::new()),
            namespace: "test".to_owned(),
            fate: Arc::default(),
        }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn named(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..Self::memory()
        }
    }

    #[cfg(all(feature = "nats", feature = "redis"))]
    pub(crate) fn server(kind: crate::server::Kind, port: u16, namespace: String) -> Self {
        Self {
            kind: NetKind::Server(kind, port),
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
        let (bus, link): (Box<dyn Bus>, _) = match &self.kind {
            NetKind::Memory(bus) => {
                let port = bus.clone();
                (Box::new(port.same_node()), Link::Memory(port))
            }
            #[cfg(all(feature = "nats", feature = "redis"))]
            NetKind::Server(kind, port) => {
                let proxy = crate::proxy::Proxy::start(*port);
                let bus = getty_cluster::bus::from_url(&kind.url(proxy.port()));
                (bus.expect("the URL is valid"), Link::Server(proxy))
            }
        };
        let faults = Arc::<Faults>::default();
        let spy = Spy::new(bus, place, Arc::clone(&self.fate), Arc::clone(&faults));
        let builder = Cluster::of(&self.namespace).over(spy);
        Node {
            cluster: settings(builder).start(),
            link,
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
        match &self.link {
            Link::Memory(port) => port.set_connected(false),
            #[cfg(all(feature = "nats", feature = "redis"))]
            Link::Server(proxy) => proxy.set(crate::proxy::Mode::Reset),
        }
    }

    /// Connects the node again, and waits until it is up.
    pub(crate) async fn reconnect(&self) {
        match &self.link {
            Link::Memory(port) => port.set_connected(true),
            #[cfg(all(feature = "nats", feature = "redis"))]
            Link::Server(proxy) => proxy.set(crate::proxy::Mode::Pass),
        }
        self.up().await;
    }

    /// Returns the bus in memory as text, which has the number of its subscriptions.
    pub(crate) fn port(&self) -> String {
        match &self.link {
            Link::Memory(port) => format!("{port:?}"),
            #[cfg(all(feature = "nats", feature = "redis"))]
            Link::Server(_) => String::new(),
        }
    }
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
