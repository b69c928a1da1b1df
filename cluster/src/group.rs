//! Group of sessions that are connected to any node.

use std::{fmt, time::Duration};

use getty_core::{CloseReason, ConnectionHandle, Session};
use getty_layers::Topics;

use crate::{Answers, Cluster, ClusterTopics, Sent, TopicsSnapshot, Unsendable, Watch, form::Form};

/// A [`Group`](getty_layers::Group) of sessions on all nodes of a [`Cluster`]: a topic without
/// a key. Clones share the group.
///
/// Its promises are those of [`ClusterTopics`]. One with other settings is made from
/// [`Cluster::topics_builder`].
///
/// Scope: cluster.
///
/// ```
/// use getty_cluster::{Cluster, ClusterGroup, bus::Memory, form::Plain};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cluster = Cluster::of("chat").over(Memory::new()).start();
/// let everybody: ClusterGroup<String> = cluster.group("everybody", Plain);
/// let topics = cluster.topics_builder("moderators", Plain);
/// let moderators: ClusterGroup<String> = topics
///     .with_notice(|missed| format!("* you have missed {missed} lines"))
///     .build()
///     .into();
/// # let _ = (everybody, moderators);
/// # }
/// ```
pub struct ClusterGroup<Out>(ClusterTopics<(), Out>);

impl Cluster {
    /// Creates a group with a name that is the same on all nodes, such as `everybody`. Groups and
    /// topics must have different names.
    ///
    /// # Panics
    ///
    /// Panics if this node has topics or a group with that name already.
    pub fn group<Out: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        form: impl Form<Out>,
    ) -> ClusterGroup<Out> {
        self.topics(name, form).into()
    }
}

impl<Out: Clone + Send + Sync + 'static> ClusterGroup<Out> {
    /// Adds `session` until it leaves or closes; see [`ClusterTopics::join`]. Returns `false` if it
    /// is a member already.
    pub fn join(&self, session: &Session<Out>) -> bool {
        self.0.join((), session)
    }

    /// Adds `session` with a card for [`ask`](Self::ask); see [`ClusterTopics::join_as`].
    pub fn join_as(&self, session: &Session<Out>, card: impl Into<String>) -> bool {
        self.0.join_as((), session, card)
    }

    /// Removes `session`. Returns `false` if it was not a member.
    pub fn leave(&self, session: &ConnectionHandle) -> bool {
        self.0.leave(&(), session)
    }

    /// Sends `message` to all members, on all nodes, without waiting; see
    /// [`ClusterTopics::broadcast`].
    ///
    /// # Errors
    ///
    /// See [`ClusterTopics::broadcast`].
    pub fn broadcast(&self, message: Out) -> Result<Sent, Unsendable<Out>> {
        self.0.broadcast(&(), message)
    }

    /// Sends `message` to all members except `sender`, which need not be a member; see
    /// [`ClusterTopics::broadcast`].
    ///
    /// # Errors
    ///
    /// See [`ClusterTopics::broadcast`].
    pub fn broadcast_except(
        &self,
        sender: &ConnectionHandle,
        message: Out,
    ) -> Result<Sent, Unsendable<Out>> {
        self.0.broadcast_except(&(), sender, message)
    }

    /// Closes all members, on all nodes, and returns their number on this node; see
    /// [`ClusterTopics::close`].
    pub fn close(&self, reason: impl Into<CloseReason>) -> usize {
        self.0.close(&(), reason)
    }

    /// Asks all nodes for the cards of the members; see [`ClusterTopics::ask`].
    ///
    /// # Cancel safety
    ///
    /// The question is forgotten if the future is dropped.
    pub async fn ask(&self, time: Duration) -> Answers {
        self.0.ask(&(), time).await
    }

    /// Watches the members that have joined [with a card](Self::join_as), on all nodes; see
    /// [`ClusterTopics::watch`].
    pub fn watch(&self) -> Watch {
        self.0.watch(&())
    }

    /// Waits until messages of other nodes arrive here; see [`ClusterTopics::subscribed`].
    pub async fn subscribed(&self, time: Duration) -> bool {
        self.0.subscribed(&(), time).await
    }

    /// Returns the counters of the group on this node.
    #[must_use]
    pub fn snapshot(&self) -> TopicsSnapshot {
        self.0.snapshot()
    }

    /// Returns the members on this node, as the only topic. A broadcast to it reaches no other
    /// node.
    #[must_use]
    pub fn local(&self) -> &Topics<(), Out> {
        self.0.local()
    }
}

impl<Out> From<ClusterTopics<(), Out>> for ClusterGroup<Out> {
    fn from(topics: ClusterTopics<(), Out>) -> Self {
        Self(topics)
    }
}

impl<Out> Clone for ClusterGroup<Out> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Out> fmt::Debug for ClusterGroup<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterGroup").field(&self.0).finish()
    }
}
