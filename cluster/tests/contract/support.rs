//! Nodes and sessions without sockets.

use std::task::{Context, Waker};

use getty_cluster::{Cluster, bus::Memory};
use getty_core::{
    Connection, Session,
    driver::{self, Driver, Payload},
};

/// Session without a socket.
pub(crate) struct Guest {
    pub(crate) session: Session<String>,
    driver: Driver<String>,
    _connection: Connection<()>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let connection = Connection::new(());
        let (session, driver) = driver::pair(connection.handle().clone());
        Self {
            session,
            driver,
            _connection: connection,
        }
    }

    /// Returns the messages that were sent to this session since the last call.
    pub(crate) fn received(&mut self) -> Vec<String> {
        self.driver.register(&Context::from_waker(Waker::noop()));
        std::iter::from_fn(|| self.driver.next_outgoing())
            .map(|outgoing| match outgoing.payload {
                Payload::Message(message) => message,
                Payload::Shared(message) => message.message(),
                other => panic!("unexpected payload: {other:?}"),
            })
            .collect()
    }
}

/// Starts nodes on one bus and waits until each knows all others.
pub(crate) async fn nodes<const N: usize>(bus: &Memory) -> [(Cluster, Memory); N] {
    let nodes = [(); N].map(|()| {
        let port = bus.clone();
        let cluster = Cluster::of("test").over(port.same_node()).start();
        (cluster, port)
    });
    for (cluster, _) in &nodes {
        cluster.up().await;
        until(|| cluster.nodes().len() == N - 1).await;
    }
    nodes
}

/// Starts nodes beside one that is there already.
pub(crate) async fn nodes_beside<const N: usize>(
    one: &Cluster,
    bus: &Memory,
) -> [(Cluster, Memory); N] {
    let nodes = [(); N].map(|()| {
        let port = bus.clone();
        let cluster = Cluster::of("test").over(port.same_node()).start();
        (cluster, port)
    });
    for cluster in nodes.iter().map(|node| &node.0).chain([one]) {
        cluster.up().await;
        until(|| cluster.nodes().len() == N).await;
    }
    nodes
}

/// Lets other tasks run until `condition` is true.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition has not become true");
}
