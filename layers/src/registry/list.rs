//! The list of live sessions itself.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use getty_core::{CloseReason, ConnectionHandle, Session, WeakHandle, WeakSession};
use tokio::{sync::Notify, time::Instant};

use super::Snapshot;

/// What a [`Registry`] lists: [`Session`]s, or [`ConnectionHandle`]s where the type of messages is not known or differs.
///
/// Nothing else can be listed: the trait cannot be implemented elsewhere.
pub trait Member: Clone + Send + Sync + Sized + 'static + sealed::Sealed {
    /// What a registry keeps, which keeps nothing alive.
    #[doc(hidden)]
    type Weak: Send + Sync;

    #[doc(hidden)]
    fn handle(&self) -> &ConnectionHandle;

    #[doc(hidden)]
    fn downgrade(&self) -> Self::Weak;

    #[doc(hidden)]
    fn upgrade(weak: &Self::Weak) -> Option<Self>;

    #[doc(hidden)]
    fn queued(&self) -> Option<usize>;
}

mod sealed {
    #[expect(unnameable_types, reason = "the trait is sealed by it")]
    pub trait Sealed {}

    impl Sealed for getty_core::ConnectionHandle {}
    impl<Out> Sealed for getty_core::Session<Out> {}
}

impl Member for ConnectionHandle {
    type Weak = WeakHandle;

    fn handle(&self) -> &ConnectionHandle {
        self
    }

    fn downgrade(&self) -> WeakHandle {
        self.downgrade()
    }

    fn upgrade(weak: &WeakHandle) -> Option<Self> {
        weak.upgrade()
    }

    fn queued(&self) -> Option<usize> {
        None
    }
}

impl<Out: Send + 'static> Member for Session<Out> {
    type Weak = WeakSession<Out>;

    fn handle(&self) -> &ConnectionHandle {
        self.handle()
    }

    fn downgrade(&self) -> WeakSession<Out> {
        self.downgrade()
    }

    fn upgrade(weak: &WeakSession<Out>) -> Option<Self> {
        weak.upgrade()
    }

    fn queued(&self) -> Option<usize> {
        Some(self.queued())
    }
}

/// A list of live sessions, by id. Clones share it.
///
/// `M` is `Session<Out>`, which can be sent to, or [`ConnectionHandle`]. A [`RegistryLayer`](super::RegistryLayer) fills
/// it. It keeps no session alive and none that has closed. What it gives out was live when it was asked: any of it may be
/// closing by then, and sending to it then says so.
///
/// One lock guards it, taken for each connection that comes or goes and for each question, never for a message. Nobody
/// else's code runs under it, so that filters may do as they please.
pub struct Registry<M: Member>(Arc<Shared<M>>);

struct Shared<M: Member> {
    members: Mutex<BTreeMap<u64, M::Weak>>,
    emptied: Notify,
}

impl<Out: Send + 'static> Registry<Session<Out>> {
    /// A registry of sessions, still empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Registry<ConnectionHandle> {
    /// A registry of connections whatever they send, still empty.
    #[must_use]
    pub fn untyped() -> Self {
        Self::default()
    }
}

impl<M: Member> Registry<M> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The one with this [`id`](ConnectionHandle::id).
    #[must_use]
    pub fn get(&self, id: u64) -> Option<M> {
        M::upgrade(self.lock().get(&id)?)
    }

    /// All that are there now, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<M> {
        self.lock().values().filter_map(M::upgrade).collect()
    }

    /// Those for which `filter` is true, the oldest first: by an attribute, by the peer, by anything that a handle tells.
    /// It asks each of them; where sessions are looked up by one key all the time, such as the number of a device,
    /// [`Topics`](crate::Topics) with that key find them at once.
    ///
    /// ```
    /// use getty_core::Session;
    /// use getty_layers::Registry;
    ///
    /// #[derive(Clone, PartialEq)]
    /// struct User(&'static str);
    ///
    /// let registry: Registry<Session<String>> = Registry::new();
    /// let of_ann = registry.find(|session| session.get() == Some(User("ann")));
    /// let local = registry.find(|session| session.peer_addr().ip().is_some_and(|ip| ip.is_loopback()));
    /// # assert!(of_ann.is_empty() && local.is_empty());
    /// ```
    #[must_use]
    pub fn find(&self, mut filter: impl FnMut(&M) -> bool) -> Vec<M> {
        let mut members = self.all();
        members.retain(|member| filter(member));
        members
    }

    /// Asks for a graceful close of those for which `filter` is true. Gives their number, without those that were closing
    /// already. [`empty`](Self::empty), and each session's [`closed`](ConnectionHandle::closed), tell when it is done.
    pub fn close_where(
        &self,
        reason: impl Into<CloseReason>,
        mut filter: impl FnMut(&M) -> bool,
    ) -> usize {
        let reason = reason.into();
        let found = self.find(|member| !member.handle().is_closing() && filter(member));
        for member in &found {
            member.handle().close_with(reason.clone());
        }
        found.len()
    }

    /// Resolves when nobody is left: as soon as the registry is empty, be it at once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn empty(&self) {
        loop {
            // made before the check: it sees every notification from here on
            let emptied = self.0.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// What there is to show of each, the oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let now = Instant::now();
        let shown = |member: &M| Snapshot::new(member.handle(), member.queued(), now);
        self.all().iter().map(shown).collect()
    }

    /// Lists `member` until it has closed.
    pub(super) fn enter(&self, member: &M) {
        let handle = member.handle();
        let id = handle.id();
        self.lock().insert(id, member.downgrade());
        let registry = self.clone();
        handle.add_close_callback(Key(self.clone()), (), move |_| registry.leave(id));
    }

    fn leave(&self, id: u64) {
        let mut members = self.lock();
        members.remove(&id);
        let emptied = members.is_empty();
        drop(members);
        if emptied {
            self.0.emptied.notify_waiters();
        }
    }

    // no code of others runs under the lock, so that what it guards is whole whatever panics
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, M::Weak>> {
        self.0
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Member> Default for Registry<M> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            members: Mutex::default(),
            emptied: Notify::new(),
        }))
    }
}

impl<M: Member> Clone for Registry<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Member> fmt::Debug for Registry<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Which registry a close callback belongs to.
struct Key<M: Member>(Registry<M>);

impl<M: Member> PartialEq for Key<M> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.0, &other.0.0)
    }
}

impl<M: Member> Eq for Key<M> {}

impl<M: Member> Hash for Key<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0.0).hash(state);
    }
}
