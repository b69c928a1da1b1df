//! List of live sessions.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use getty_core::{
    Close, ConnectionHandle, Session, WeakHandle, WeakSession,
    sync::{Mutex, MutexGuard},
};
use tokio::{sync::Notify, time::Instant};

use super::Snapshot;

/// Entry of a [`Registry`]: a [`Session`], or a [`ConnectionHandle`] if message types are
/// unknown or differ.
///
/// The trait is sealed.
pub trait Member: Clone + Send + Sync + Sized + 'static + sealed::Sealed {
    /// Weak reference in the registry, which keeps no session alive.
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
    #[expect(unnameable_types, reason = "it seals the trait")]
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

/// List of live sessions by id. Clones share the list.
///
/// `M` is `Session<Out>`, which can be sent to, or [`ConnectionHandle`]. A
/// [`RegistryLayer`](super::RegistryLayer) adds the entries. The registry keeps no session
/// alive and contains none that has closed. A returned session was live at the time of the
/// call. It may be closing since. Sending to it then fails.
///
/// One lock guards the list. It is taken for each connection that opens or closes and for each
/// query, but never for a message. No user code runs under it, so filters may use the registry.
#[doc(alias = "connections")]
#[doc(alias = "kick")]
pub struct Registry<M: Member>(Arc<Shared<M>>);

struct Shared<M: Member> {
    members: Mutex<BTreeMap<u64, M::Weak>>,
    emptied: Notify,
    shown: Mutex<Vec<Shown>>,
}

/// Function that returns the text of an attribute.
type Show = dyn Fn(&ConnectionHandle) -> Option<String> + Send + Sync;

/// An attribute that snapshots show: its label and the function that formats it.
#[derive(Clone)]
struct Shown {
    label: &'static str,
    show: Arc<Show>,
}

impl<Out: Send + 'static> Registry<Session<Out>> {
    /// Creates a new empty registry of sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Registry<ConnectionHandle> {
    /// Creates a new empty registry of connections with any message type.
    #[must_use]
    pub fn untyped() -> Self {
        Self::default()
    }
}

impl<M: Member> Registry<M> {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns `true` if there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns the entry with this [`id`](ConnectionHandle::id).
    #[must_use]
    pub fn get(&self, id: u64) -> Option<M> {
        M::upgrade(self.lock().get(&id)?)
    }

    /// Returns all entries, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<M> {
        self.lock().values().filter_map(M::upgrade).collect()
    }

    /// Returns the entries for which `filter` returns `true`, the oldest first.
    ///
    /// A filter may use attributes, addresses and everything else that a handle returns. It is
    /// called for each entry. To look sessions up by one key frequently, such as a device number,
    /// use [`Topics`](crate::Topics) with that key instead.
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
    /// let local = registry.find(|session| {
    ///     session.peer_addr().ip().is_some_and(|ip| ip.is_loopback())
    /// });
    /// # assert!(of_ann.is_empty() && local.is_empty());
    /// ```
    #[must_use]
    pub fn find(&self, mut filter: impl FnMut(&M) -> bool) -> Vec<M> {
        let mut members = self.all();
        members.retain(|member| filter(member));
        members
    }

    /// Requests a graceful close of the entries for which `filter` returns `true`. Returns their
    /// number, without those that were closing already.
    ///
    /// To wait for the end, await [`empty`](Self::empty) or [`closed`](ConnectionHandle::closed) of
    /// each session.
    pub fn close_where(
        &self,
        close: impl Into<Close>,
        mut filter: impl FnMut(&M) -> bool,
    ) -> usize {
        let close = close.into();
        let found = self.find(|member| !member.handle().is_closing() && filter(member));
        for member in &found {
            member.handle().close_with(close.clone());
        }
        found.len()
    }

    /// Waits until the registry is empty. Returns at once if it is.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn empty(&self) {
        loop {
            // Created before the check, so it receives every notification after the check.
            let emptied = self.0.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Returns the current values of each entry, the oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let now = Instant::now();
        let attributes = self.shown().clone();
        let snapshot = |member: &M| {
            let mut snapshot = Snapshot::new(member.handle(), member.queued(), now);
            for Shown { label, show } in &attributes {
                if let Some(text) = show(member.handle()) {
                    snapshot.attributes.insert(label, text);
                }
            }
            snapshot
        };
        self.all().iter().map(snapshot).collect()
    }

    /// Adds an attribute to the snapshots of this registry and its clones, under `label`. `show`
    /// returns its text, or `None` for a connection without the attribute. It is called for each
    /// entry of a snapshot, outside all locks. A later function for the same label replaces the
    /// earlier one.
    ///
    /// ```
    /// use getty_core::Session;
    /// use getty_layers::Registry;
    ///
    /// #[derive(Clone)]
    /// struct User(String);
    ///
    /// let registry: Registry<Session<String>> = Registry::new();
    /// registry.show_attribute("user", |handle| handle.get().map(|User(name)| name));
    /// for session in registry.snapshot() {
    ///     println!("{}: {:?}", session.peer, session.attributes.get("user"));
    /// }
    /// ```
    pub fn show_attribute(
        &self,
        label: &'static str,
        show: impl Fn(&ConnectionHandle) -> Option<String> + Send + Sync + 'static,
    ) {
        let new = Shown {
            label,
            show: Arc::new(show),
        };
        let mut shown = self.shown();
        // Dropped after the lock, because it is the application's.
        let _earlier = match shown.iter_mut().find(|shown| shown.label == label) {
            Some(shown) => Some(std::mem::replace(shown, new)),
            None => {
                shown.push(new);
                None
            }
        };
        drop(shown);
    }

    // No user code runs under the lock.
    fn shown(&self) -> MutexGuard<'_, Vec<Shown>> {
        self.0.shown.lock()
    }

    /// Adds `member` until it has closed.
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

    // No user code runs under the lock, so a poisoned list is still consistent.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, M::Weak>> {
        self.0.members.lock()
    }
}

impl<M: Member> Default for Registry<M> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            members: Mutex::default(),
            emptied: Notify::new(),
            shown: Mutex::default(),
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

/// Key of the close callback: the identity of a registry.
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
