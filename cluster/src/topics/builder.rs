//! Builder of a set of topics.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
};

use getty_core::SlowConsumer;
use getty_layers::Topics;

use super::{Cards, ClusterTopics, Gap, GapHook, Shared, interest::Interest, sequence::Sequences};
use crate::{Cluster, Key, cluster::Set, counters::TopicCounters, form::Form, subject::token};

/// Builder of [`ClusterTopics`]; see [`Cluster::topics_builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TopicsBuilder<K, Out> {
    cluster: Cluster,
    name: Arc<str>,
    form: Box<dyn Form<Out>>,
    policy: SlowConsumer,
    notice: Option<Box<dyn Fn(u64) -> Out + Send + Sync>>,
    gap_hook: Option<GapHook<K>>,
    buckets: Option<u32>,
    max_topics: usize,
}

impl<K: Key, Out: Clone + Send + Sync + 'static> TopicsBuilder<K, Out> {
    pub(crate) fn new(cluster: Cluster, name: &str, form: impl Form<Out>) -> Self {
        Self {
            cluster,
            name: token(name.as_bytes()).into(),
            form: Box::new(form),
            policy: SlowConsumer::DropNewest,
            notice: None,
            gap_hook: None,
            buckets: None,
            max_topics: 100_000,
        }
    }

    /// Sets the policy for slow members; see
    /// [`GroupBuilder::with_policy`](getty_layers::group::GroupBuilder::with_policy). The default
    /// is [`SlowConsumer::DropNewest`].
    pub const fn with_policy(mut self, policy: SlowConsumer) -> Self {
        self.policy = policy;
        self
    }

    /// Sets a function that creates a notice for members that have missed messages. The default is
    /// to send no notice.
    ///
    /// It is called with the number of messages of one publisher that did not reach this node, or
    /// that a slow member has missed. The notice is sent before the next message.
    pub fn with_notice(mut self, notice: impl Fn(u64) -> Out + Send + Sync + 'static) -> Self {
        self.notice = Some(Box::new(notice));
        self
    }

    /// Sets a function that is called when messages of another node to a topic did not arrive on
    /// this node, before the next message of that node. The default is to call none.
    ///
    /// Unlike the [notice](Self::with_notice) it is called once for a node and not for each member,
    /// and never because of a slow member. So it can load the state of the topic again. It must not
    /// block. [`Snapshot::lost`](crate::Snapshot::lost) counts the messages without it.
    pub fn with_gap_hook(mut self, hook: impl Fn(&K, Gap) + Send + Sync + 'static) -> Self {
        self.gap_hook = Some(Box::new(hook));
        self
    }

    /// Sets the maximum number of topics on this node. The default is 100,000. A session cannot
    /// create a topic beyond it. Other threads may create some more at the same time.
    pub const fn with_max_topics(mut self, topics: usize) -> Self {
        self.max_topics = topics;
        self
    }

    /// Distributes the topics over this many subjects of the bus, by the hash of their keys. The
    /// default is a subject for each topic.
    ///
    /// A node then receives all messages of a bucket in which it has a topic, and drops those of
    /// other topics. It needs fewer subscriptions and receives more messages. All nodes must have
    /// the same number.
    pub const fn with_buckets(mut self, buckets: u32) -> Self {
        self.buckets = Some(buckets);
        self
    }

    /// Creates the topics, without members.
    ///
    /// # Panics
    ///
    /// Panics if this node has topics with that name already.
    #[must_use]
    pub fn build(self) -> ClusterTopics<K, Out> {
        let interest = Arc::new(Interest::default());
        let dirty = Arc::downgrade(&interest);
        let mut topics = Topics::builder()
            .with_policy(self.policy)
            .watched(move |key: &K| {
                if let Some(dirty) = dirty.upgrade() {
                    dirty.changed(key);
                }
            });
        if let Some(notice) = self.notice {
            topics = topics.with_notice(notice);
        }
        let shared = Arc::new(Shared {
            inner: Arc::clone(&self.cluster.inner),
            name: Arc::clone(&self.name),
            topics: topics.build(),
            form: self.form,
            gap_hook: self.gap_hook,
            counters: TopicCounters::default(),
            sequences: Sequences::new(self.max_topics),
            cards: Arc::new(Cards {
                watched: Arc::clone(&self.cluster.inner.watched),
                set: Arc::clone(&self.name),
                by_session: Mutex::default(),
            }),
            interest,
            buckets: self.buckets,
            max_topics: self.max_topics,
        });
        let set: Weak<dyn Set> = Arc::downgrade(&shared) as Weak<dyn Set>;
        let is_new = shared.inner.add_set(Arc::clone(&shared.name), set);
        assert!(is_new, "this node has topics with the name {}", shared.name);
        shared.follow_interest();
        ClusterTopics {
            shared,
            cluster: self.cluster,
        }
    }
}

impl<K, Out> fmt::Debug for TopicsBuilder<K, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicsBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .field("buckets", &self.buckets)
            .field("max_topics", &self.max_topics)
            .finish_non_exhaustive()
    }
}
