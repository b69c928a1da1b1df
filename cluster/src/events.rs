//! Events of nodes that come and go.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Weak},
};

use tokio::sync::watch;

use crate::{Cluster, Node, NodeId, cluster::Inner};

/// Another node of the cluster has come or gone; see [`Cluster::node_events`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The node is alive. The first events are of the nodes that were alive before.
    Joined(Node),
    /// The node has left, or its beats are missing. A node that starts again has another id.
    Left(Node),
}

/// Stream of [`NodeEvent`]s; see [`Cluster::node_events`].
#[must_use = "it does nothing until `next` is called"]
pub struct NodeEvents {
    inner: Weak<Inner>,
    changed: watch::Receiver<u64>,
    known: HashMap<NodeId, Node>,
    events: VecDeque<NodeEvent>,
    has_begun: bool,
}

impl Cluster {
    /// Returns the nodes that come and go from now on, after those that are alive.
    ///
    /// A program that keeps a list of people can remove those of a node that has left; see
    /// [`Member::node`](crate::Member::node). A node that comes and goes between two calls of
    /// [`NodeEvents::next`] has no event, so a slow reader uses no memory.
    ///
    /// ```
    /// use getty_cluster::{Cluster, NodeEvent, bus::Memory};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let bus = Memory::new();
    /// let one = Cluster::of("chat").over(bus.clone()).start();
    /// let two = Cluster::of("chat").named("two").over(bus).start();
    /// let mut events = one.node_events();
    /// let Some(NodeEvent::Joined(node)) = events.next().await else {
    ///     panic!("the other node comes first");
    /// };
    /// assert_eq!(&*node.name, "two");
    /// two.leave().await;
    /// assert_eq!(events.next().await, Some(NodeEvent::Left(node)));
    /// # }
    /// ```
    pub fn node_events(&self) -> NodeEvents {
        NodeEvents {
            inner: Arc::downgrade(&self.inner),
            changed: self.inner.nodes.changes(),
            known: HashMap::new(),
            events: VecDeque::new(),
            has_begun: false,
        }
    }
}

impl NodeEvents {
    /// Waits for the next event. Returns `None` once this node has ended.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.has_begun {
                self.changed.changed().await.ok()?;
            }
            self.has_begun = true;
            // Before the nodes are read, so that a later change is seen by the next call.
            self.changed.mark_unchanged();
            let inner = self.inner.upgrade()?;
            self.compare(inner.nodes.list());
        }
    }

    /// Queues the differences between the nodes that the reader knows and those that are alive.
    fn compare(&mut self, alive: Vec<Node>) {
        let alive: HashMap<_, _> = alive.into_iter().map(|node| (node.id, node)).collect();
        let gone = self.known.extract_if(|id, _| !alive.contains_key(id));
        self.events
            .extend(gone.map(|(_, node)| NodeEvent::Left(node)));
        for (id, node) in alive {
            if self.known.insert(id, node.clone()).is_none() {
                self.events.push_back(NodeEvent::Joined(node));
            }
        }
    }
}

impl fmt::Debug for NodeEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEvents")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}
