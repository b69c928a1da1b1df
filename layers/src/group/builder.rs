//! Builders of groups and topics and the settings that their clones share.

use std::{fmt, sync::Arc};

use getty_core::SlowConsumer;

use super::{Group, Topics, topics::Watcher};

/// Function that creates the message about a number of missed messages.
pub(super) type Notice<Out> = Arc<dyn Fn(u64) -> Out + Send + Sync>;

/// Settings of a group or of topics.
pub(super) struct Settings<Out> {
    pub(super) policy: SlowConsumer,
    pub(super) notice: Option<Notice<Out>>,
}

impl<Out> Default for Settings<Out> {
    fn default() -> Self {
        Self {
            policy: SlowConsumer::DropNewest,
            notice: None,
        }
    }
}

impl<Out> fmt::Debug for Settings<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("policy", &self.policy)
            .field("notice", &self.notice.is_some())
            .finish()
    }
}

/// Builder of a [`Group`]; see [`Group::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct GroupBuilder<Out> {
    settings: Settings<Out>,
}

impl<Out> GroupBuilder<Out> {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
        }
    }

    /// Sets the policy for slow members that join without a policy. The default is
    /// [`SlowConsumer::DropNewest`]: a slow member misses messages.
    ///
    /// [`Group::join_with`] sets the policy of one member.
    pub const fn with_policy(mut self, policy: SlowConsumer) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Sets a function that creates a notice for members that have missed messages. The default is
    /// to send no notice.
    ///
    /// When messages for a member were dropped and its queue has room again, `notice` is called
    /// with their number. The notice is sent before the next broadcast.
    pub fn with_notice(mut self, notice: impl Fn(u64) -> Out + Send + Sync + 'static) -> Self {
        self.settings.notice = Some(Arc::new(notice));
        self
    }

    /// Creates the group, without members.
    #[must_use]
    pub fn build(self) -> Group<Out> {
        Group::with_settings(self.settings)
    }
}

impl<Out> fmt::Debug for GroupBuilder<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("settings", &self.settings)
            .finish()
    }
}

/// Builder of [`Topics`]; see [`Topics::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TopicsBuilder<K, Out> {
    settings: Settings<Out>,
    watcher: Option<Watcher<K>>,
}

impl<K, Out> TopicsBuilder<K, Out> {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
            watcher: None,
        }
    }

    /// Sets the policy for slow members that join without a policy; see
    /// [`GroupBuilder::with_policy`].
    pub const fn with_policy(mut self, policy: SlowConsumer) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Sets a function that creates a notice for members that have missed messages of a topic; see
    /// [`GroupBuilder::with_notice`]. Missed messages are counted separately for each topic.
    pub fn with_notice(mut self, notice: impl Fn(u64) -> Out + Send + Sync + 'static) -> Self {
        self.settings.notice = Some(Arc::new(notice));
        self
    }

    /// Sets a function that is called after a topic was created by its first member, and after it
    /// was removed with its last. The default is none.
    ///
    /// It is called outside all locks, so it may use the topics. Calls from several threads may be
    /// late and in any order: they report that something has changed, and
    /// [`count`](Topics::count) returns the current state. The call for the last change of a topic
    /// comes after this change. `changed` must not block because a close callback may call it.
    pub fn watched(mut self, changed: impl Fn(&K) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Box::new(changed));
        self
    }

    /// Creates the topics, without members.
    #[must_use]
    pub fn build(self) -> Topics<K, Out> {
        Topics::with_settings(self.settings, self.watcher)
    }
}

impl<K, Out> fmt::Debug for TopicsBuilder<K, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicsBuilder")
            .field("settings", &self.settings)
            .field("watched", &self.watcher.is_some())
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use getty_core::{Connection, driver};

    use super::*;

    #[test]
    fn clones_share_the_policy_and_the_notice() {
        let connection = Connection::new(());
        let (session, mut driver) = driver::pair::<String>(connection.handle().clone());
        driver.set_queue_bytes(1);
        let noticed = Arc::new(AtomicU64::new(0));
        let missed_messages = Arc::clone(&noticed);
        let group = Group::builder()
            .with_policy(SlowConsumer::DropOldest)
            .with_notice(move |missed| {
                missed_messages.store(missed, Relaxed);
                format!("missed {missed}")
            })
            .build();
        assert!(group.clone().join(&session));
        assert!(group.broadcast("first".to_owned()).is_complete());
        let report = group.clone().broadcast("second".to_owned());
        assert_eq!((report.replaced, report.dropped), (1, 0));
        driver.poll_signals();
        while driver.next_outgoing().is_some() {
            driver.set_backpressure(false);
        }
        group.broadcast("third".to_owned());
        assert_eq!(noticed.load(Relaxed), 1);
    }

    #[test]
    fn messages_missed_elsewhere_are_in_the_notice_although_the_queue_is_full() {
        let connection = Connection::new(());
        let (session, mut driver) = driver::pair::<String>(connection.handle().clone());
        driver.set_queue_bytes(1);
        let noticed = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&noticed);
        let topics = Topics::builder()
            .with_notice(move |missed| {
                counts.store(missed, Relaxed);
                format!("missed {missed}")
            })
            .build();
        topics.join("topic", &session);
        topics.count_missed("other", 100);
        topics.broadcast("topic", "first".to_owned());
        topics.count_missed("topic", 7);
        // The queue is full: neither the notice nor the message fits.
        assert_eq!(topics.broadcast("topic", "second".to_owned()).dropped, 1);
        driver.poll_signals();
        while driver.next_outgoing().is_some() {
            driver.set_backpressure(false);
        }
        topics.broadcast("topic", "third".to_owned());
        assert_eq!(noticed.load(Relaxed), 8);
    }

    #[test]
    fn topics_have_the_same_settings() {
        let connection = Connection::new(());
        let (session, mut driver) = driver::pair::<String>(connection.handle().clone());
        driver.set_queue_bytes(1);
        let builder = Topics::builder().with_policy(SlowConsumer::Close);
        let topics = builder.with_notice(|missed| missed.to_string()).build();
        assert!(topics.clone().join("topic", &session));
        assert!(topics.broadcast("topic", "first".to_owned()).is_complete());
        assert_eq!(topics.broadcast("topic", "second".to_owned()).closed, 1);
    }
}
