//! Names that belong to one session at a time, in the whole cluster.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty_core::{CloseReason, ConnectionHandle, WeakHandle};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

use crate::{
    Cluster, KeyBytes, NodeId, Subject,
    bus::{Entry, PutError, Revision, Store, StoreError},
    cluster::{Inner, MAX_KEY, within},
    counters::{ClaimCounters, ClaimsSnapshot},
    frame::Kind,
    lock, random_id,
    subject::token,
};

/// Number of attempts to claim a name while other nodes claim the same name.
const TRIES: u32 = 5;
/// Time for the node of the earlier session to close it.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Number of requests after that time, at its interval. Then the node is dead, or will
/// check its claims when it is back.
const CLOSE_LATER: u32 = 15;
/// Mean time after which a claim that the store has not taken is tried again.
const WRITE_LATER: Duration = Duration::from_secs(2);
/// Time after which the request to close it is repeated.
const CLOSE_REPEAT: Duration = Duration::from_millis(200);
/// Time for an unknown node to show that it is alive.
const ALIVE_TIME: Duration = Duration::from_secs(1);
/// Time between two checks of claims, after the store was away: 1,000 a second.
const CHECK_PAUSE: Duration = Duration::from_millis(1);
/// Age at which an entry is written again. The store may remove it after 48 h.
const RENEW: Duration = Duration::from_secs(12 * 60 * 60);
/// Time to wait for entries to be removed when the node leaves.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// Names, such as the ids of users, that each belong to one session of the cluster.
///
/// [`take`](Self::take) is a login that ends the earlier session of the user, on any node.
/// [`take_free`](Self::take_free) is for unique names: it fails if the name is taken. A name is
/// released when its session closes.
///
/// If another session gets the name, it depends on the call that the earlier session got it
/// with: after `take` the session is closed, and after `take_free` it only loses the name; see
/// [`ClaimsBuilder::with_lost_hook`].
///
/// All claims of a name are in one order, which the store decides. So of any number of
/// simultaneous logins on any nodes exactly the last one stays. While the store or the bus is
/// away, two sessions are possible; see [`StoreAway`]. They are resolved after it is back: a
/// node then checks all its claims, 1,000 a second.
///
/// Scope: cluster.
///
/// ```
/// use getty_cluster::{Cluster, Previous, bus::Memory};
/// use getty_core::{CloseReason, Connection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), getty_cluster::ClaimError> {
/// let bus = Memory::new();
/// let one = Cluster::of("game").over(bus.clone()).start();
/// let two = Cluster::of("game").over(bus).start();
/// let (users_of_one, users_of_two) = (one.claims("users"), two.claims("users"));
/// # one.up().await;
/// # two.up().await;
///
/// let (phone, laptop) = (Connection::new(()), Connection::new(()));
/// users_of_one.take("ada", phone.handle()).await?;
/// let claimed = users_of_two.take("ada", laptop.handle()).await?;
/// assert_eq!(claimed.previous, Previous::Closed);
/// assert_eq!(phone.handle().reason(), Some(CloseReason::TakenOver));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Claims {
    set: Arc<ClaimSet>,
    cluster: Cluster,
}

/// Builder of [`Claims`]; see [`Cluster::claims_builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClaimsBuilder {
    cluster: Cluster,
    name: String,
    away: StoreAway,
    lost: Option<Box<LostHook>>,
}

type LostHook = dyn Fn(LostName) + Send + Sync;

/// Name that a session had from [`Claims::take_free`] and that another session has now; see
/// [`ClaimsBuilder::with_lost_hook`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LostName {
    /// The bytes of the name; see [`KeyBytes`].
    pub name: Bytes,
    /// The session that has lost it. It is open.
    pub session: ConnectionHandle,
}

/// Behavior of [`Claims::take`] while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreAway {
    /// The session opens, and the name is claimed once the store is back. Until then an earlier
    /// session of the name may be open as well. It is the default. [`Claims::take_free`] fails
    /// nevertheless, because a name cannot be unique without the store.
    #[default]
    Admit,
    /// The claim fails.
    Refuse,
}

/// Result of [`Claims::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claimed {
    /// Fate of the session that had the name.
    pub previous: Previous,
}

/// Fate of the session that had a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Previous {
    /// There was none.
    None,
    /// It was closed as [`TakenOver`](CloseReason::TakenOver), or had closed before. If it had the
    /// name from [`Claims::take_free`], it may be open, without the name.
    Closed,
    /// Its node has not answered within 2 s, or is dead. It will close the session when it can be
    /// reached again.
    Unreachable,
    /// The store is away, so the session, if there is one, is not known.
    Unknown,
}

/// Error of a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another session has the name.
    Taken,
    /// Other nodes claim the same name at the same time, and this one has lost five times.
    Contended,
    /// The session has closed.
    Closed,
    /// The name has more than 4,096 bytes.
    TooLong,
    /// The bus has no store.
    NoStore,
    /// The store cannot be reached or has failed.
    Store(StoreError),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "another session has the name",
            Self::Contended => "other nodes claim the name at the same time",
            Self::Closed => "the session has closed",
            Self::TooLong => "the name has more than 4,096 bytes",
            Self::NoStore => "the bus has no store of claims",
            Self::Store(_) => "the name could not be claimed",
        })
    }
}

impl Error for ClaimError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Claims with one name, and those of this node's sessions.
pub(crate) struct ClaimSet {
    inner: Arc<Inner>,
    store: Option<Arc<dyn Store>>,
    name: String,
    away: StoreAway,
    lost: Option<Box<LostHook>>,
    pub(crate) counters: ClaimCounters,
    local: Mutex<Locals>,
    /// Requests to other nodes that await an acknowledgement.
    /// More than one claim may request the same close.
    awaited: Mutex<HashMap<u64, Vec<oneshot::Sender<()>>>>,
    ended: Mutex<Ended>,
    released: Notify,
    /// Held by the task that checks all claims.
    checking: tokio::sync::Mutex<()>,
    /// `true` while another check waits for that one.
    check_waits: AtomicBool,
}

/// Claims that have ended, and whose entries the store may still have.
#[derive(Default)]
struct Ended {
    claims: HashMap<u64, (Subject, Option<Revision>)>,
    /// `true` while a task tries again what has failed.
    is_retried: bool,
}

/// Claims of this node's sessions.
#[derive(Default)]
struct Locals {
    claims: HashMap<u64, Local>,
    /// Id of the session and of the claim.
    by_session: BTreeSet<(u64, u64)>,
}

impl Locals {
    fn insert(&mut self, claim: u64, local: Local) {
        self.by_session.insert((local.session_id, claim));
        self.claims.insert(claim, local);
    }

    fn remove(&mut self, claim: u64) -> Option<Local> {
        let local = self.claims.remove(&claim)?;
        self.by_session.remove(&(local.session_id, claim));
        Some(local)
    }

    fn get(&self, claim: u64) -> Option<&Local> {
        self.claims.get(&claim)
    }

    fn get_mut(&mut self, claim: u64) -> Option<&mut Local> {
        self.claims.get_mut(&claim)
    }

    fn contains(&self, claim: u64) -> bool {
        self.claims.contains_key(&claim)
    }

    /// Returns the claim of a session for a name.
    fn find(&self, session: u64, key: &Subject) -> Option<u64> {
        let claims = self.by_session.range((session, 0)..=(session, u64::MAX));
        let mut claims = claims.map(|(_, claim)| *claim);
        claims.find(|claim| self.get(*claim).is_some_and(|local| local.key == *key))
    }
}

/// Claim of a session of this node.
struct Local {
    key: Subject,
    session: WeakHandle,
    session_id: u64,
    /// The name, if the session goes on without it. `None` if the session is closed.
    unique: Option<Bytes>,
    /// `true` once the store may have it.
    attempted: bool,
    /// `None` until the store has taken it.
    revision: Option<Revision>,
    written: Instant,
    /// `true` while `write` is at work. Its claim is not checked meanwhile.
    writing: bool,
}

/// Owner of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    node: NodeId,
    claim: u64,
}

/// Value of an entry of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    owner: Owner,
    /// The owner before. It must be closed even if this node has not learned that its value was
    /// taken.
    previous: Option<Owner>,
}

impl Value {
    fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(33);
        bytes.put_u8(1);
        for Owner { node, claim } in [Some(self.owner), self.previous].into_iter().flatten() {
            bytes.put_u64(node.0);
            bytes.put_u64(claim);
        }
        bytes.freeze()
    }

    /// Returns the value of an entry, unless it was removed.
    fn of(entry: &Entry) -> Option<Self> {
        Self::decode(entry.value.clone()?)
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != 1 {
            return None;
        }
        let mut owner = || {
            let node = NodeId(bytes.try_get_u64().ok()?);
            let claim = bytes.try_get_u64().ok()?;
            Some(Owner { node, claim })
        };
        Some(Self {
            owner: owner()?,
            previous: owner(),
        })
    }
}

impl ClaimsBuilder {
    pub(crate) fn new(cluster: Cluster, name: &str) -> Self {
        Self {
            cluster,
            name: token(name.as_bytes()),
            away: StoreAway::default(),
            lost: None,
        }
    }

    /// Sets what [`Claims::take`] does while the store cannot be reached. The default is
    /// [`StoreAway::Admit`].
    pub const fn with_store_away(mut self, away: StoreAway) -> Self {
        self.away = away;
        self
    }

    /// Sets a function that is called when a session has lost a name that it got with
    /// [`Claims::take_free`]: another session has it now. The session is open. The function can
    /// rename or close it. The default is to log a warning.
    ///
    /// A name is lost if its node was cut off from the others for 10 s, so that they gave it to
    /// another session, or if another session has called [`Claims::take`]. The function must not
    /// block.
    pub fn with_lost_hook(mut self, hook: impl Fn(LostName) + Send + Sync + 'static) -> Self {
        self.lost = Some(Box::new(hook));
        self
    }

    /// Creates the claims.
    ///
    /// # Panics
    ///
    /// Panics if this node has claims with that name already.
    #[must_use]
    pub fn build(self) -> Claims {
        let Self {
            cluster,
            name,
            away,
            lost,
        } = self;
        let set = Arc::new(ClaimSet {
            inner: Arc::clone(&cluster.inner),
            store: cluster.inner.store.clone(),
            name,
            away,
            lost,
            counters: ClaimCounters::default(),
            local: Mutex::default(),
            awaited: Mutex::default(),
            ended: Mutex::default(),
            released: Notify::new(),
            checking: tokio::sync::Mutex::default(),
            check_waits: AtomicBool::new(false),
        });
        let is_new = cluster.inner.add_claim_set(&set);
        assert!(is_new, "this node has claims with the name {}", set.name);
        let weak = Arc::downgrade(&set);
        cluster.inner.runtime.spawn(async move {
            loop {
                sleep(RENEW / 12).await;
                let Some(set) = weak.upgrade() else { return };
                set.check_all().await;
            }
        });
        Claims { set, cluster }
    }
}

impl Claims {
    /// Gives the name `id` to `session`, and closes another session that has it as
    /// [`TakenOver`](CloseReason::TakenOver), on any node. It waits until that session has begun to
    /// close, at most for 2 s. A session that has the name keeps it.
    ///
    /// An earlier session that had the name from [`take_free`](Self::take_free) only loses it.
    ///
    /// Call it in an [`OnOpenLayer`](getty_layers::OnOpenLayer), where nothing is read until it
    /// resolves, or in the handler of a login. A session may have any number of names.
    ///
    /// # Errors
    ///
    /// The session does not have the name. Close it, or refuse the login.
    ///
    /// # Cancel safety
    ///
    /// The claim goes on if the future is dropped, and is released when the session closes.
    pub async fn take<Q: KeyBytes + ?Sized>(
        &self,
        id: &Q,
        session: &ConnectionHandle,
    ) -> Result<Claimed, ClaimError> {
        self.claim(id, session, true).await
    }

    /// Gives the name `id` to `session` if no other session has it. A name of a session whose node
    /// is dead is free. If the node was only cut off, that session loses the name later, and stays
    /// open; see [`ClaimsBuilder::with_lost_hook`].
    ///
    /// # Errors
    ///
    /// [`ClaimError::Taken`] if another session has the name. See [`take`](Self::take) for others.
    ///
    /// # Cancel safety
    ///
    /// See [`take`](Self::take).
    pub async fn take_free<Q: KeyBytes + ?Sized>(
        &self,
        id: &Q,
        session: &ConnectionHandle,
    ) -> Result<(), ClaimError> {
        self.claim(id, session, false).await.map(|_| ())
    }

    async fn claim<Q: KeyBytes + ?Sized>(
        &self,
        id: &Q,
        session: &ConnectionHandle,
        takes_over: bool,
    ) -> Result<Claimed, ClaimError> {
        let id = id.key_bytes();
        if id.len() > MAX_KEY {
            return Err(ClaimError::TooLong);
        }
        let set = Arc::clone(&self.set);
        let key = Subject::claim(&set.inner.namespace, &set.name, &id);
        let unique = (!takes_over).then(|| Bytes::copy_from_slice(&id));
        let claim = set.note(key.clone(), session, unique);
        let claimant = session.downgrade();
        // In a task, so that a claim that is cut off between two steps is not left behind.
        let claiming = self.set.inner.runtime.spawn(async move {
            let mut result = set.write(&key, claim, takes_over).await;
            // Another session may have taken it since.
            let is_held = match lock(&set.local).get_mut(claim) {
                Some(local) => {
                    local.writing = false;
                    true
                }
                None => false,
            };
            let is_open = || {
                let session = claimant.upgrade();
                session.is_some_and(|session| session.reason().is_none())
            };
            if !takes_over && !is_held && is_open() {
                result = Err(ClaimError::Taken);
            }
            set.counters.count(&result);
            if result.is_err() {
                set.forget(claim);
            }
            if let Ok(Claimed {
                previous: Previous::Unknown,
            }) = result
            {
                set.inner
                    .runtime
                    .spawn(write_later(Arc::downgrade(&set), claim, key));
            }
            result
        });
        match claiming.await {
            Ok(result) => result,
            // The runtime shuts down.
            Err(_) => Err(ClaimError::Closed),
        }
    }

    /// Releases the name `id` if `session` has it. Returns `false` if it has not. A close does this
    /// automatically.
    pub fn release<Q: KeyBytes + ?Sized>(&self, id: &Q, session: &ConnectionHandle) -> bool {
        let set = &self.set;
        let key = Subject::claim(&set.inner.namespace, &set.name, &id.key_bytes());
        let found = lock(&set.local).find(session.id(), &key);
        let Some(claim) = found else {
            return false;
        };
        set.forget(claim);
        true
    }

    /// Returns `true` if `session` has the name `id`, as far as this node knows.
    #[must_use]
    pub fn has<Q: KeyBytes + ?Sized>(&self, id: &Q, session: &ConnectionHandle) -> bool {
        let set = &self.set;
        let key = Subject::claim(&set.inner.namespace, &set.name, &id.key_bytes());
        lock(&set.local).find(session.id(), &key).is_some()
    }

    /// Returns the counters of these claims on this node.
    #[must_use]
    pub fn snapshot(&self) -> ClaimsSnapshot {
        self.set.counters.snapshot(self.len())
    }

    /// Returns the number of names of this node's sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Returns `true` if no session of this node has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ClaimSet {
    /// Registers a claim, so that a later one can close its session from now on.
    fn note(
        self: &Arc<Self>,
        key: Subject,
        session: &ConnectionHandle,
        unique: Option<Bytes>,
    ) -> u64 {
        let claim = random_id();
        let local = Local {
            key,
            session: session.downgrade(),
            session_id: session.id(),
            unique,
            attempted: false,
            revision: None,
            written: Instant::now(),
            writing: true,
        };
        lock(&self.local).insert(claim, local);
        let set = Arc::downgrade(self);
        // A closed session calls it at once.
        session.add_close_callback("getty-cluster claim", claim, move |_| {
            if let Some(set) = set.upgrade() {
                set.forget(claim);
            }
        });
        claim
    }

    /// Removes a claim from this node. Its session stays as it is.
    fn remove_local(&self, claim: u64) -> Option<Local> {
        let local = lock(&self.local).remove(claim)?;
        if let Some(session) = local.session.upgrade() {
            session.remove_close_callback("getty-cluster claim", claim);
        }
        Some(local)
    }

    /// Removes a claim from this node, and from the store.
    fn forget(self: &Arc<Self>, claim: u64) {
        if let Some(local) = self.remove_local(claim)
            && local.attempted
        {
            self.remove_entry(claim, local.key, local.revision);
        }
    }

    /// Removes the entry of a claim that has ended, now or when the store is back.
    fn remove_entry(self: &Arc<Self>, claim: u64, key: Subject, revision: Option<Revision>) {
        lock(&self.ended).claims.insert(claim, (key, revision));
        let set = Arc::clone(self);
        self.inner.runtime.spawn(async move {
            let Err(error) = set.try_remove_entry(claim).await else {
                return;
            };
            tracing::debug!(target: "getty::cluster", %error, "a claim was not removed yet");
            if !std::mem::replace(&mut lock(&set.ended).is_retried, true) {
                remove_later(Arc::downgrade(&set)).await;
            }
        });
    }

    async fn try_remove_entry(&self, claim: u64) -> Result<(), StoreError> {
        let Some((key, revision)) = lock(&self.ended).claims.get(&claim).cloned() else {
            return Ok(());
        };
        if let Some(store) = &self.store {
            let is_removed = match revision {
                Some(revision) => store.remove_if(&key, revision).await?,
                None => false,
            };
            // A write whose answer was lost has given it another revision.
            if !is_removed
                && let Some(entry) = store.get(&key).await?
                && Value::of(&entry).is_some_and(|value| value.owner == self.owner(claim))
            {
                store.remove_if(&key, entry.revision).await?;
            }
        }
        lock(&self.ended).claims.remove(&claim);
        self.released.notify_waiters();
        Ok(())
    }

    /// Waits until the entries of closed sessions are removed, for a short time.
    pub(crate) async fn released(&self) {
        let done = async {
            loop {
                let released = self.released.notified();
                if lock(&self.ended).claims.is_empty() {
                    return;
                }
                released.await;
            }
        };
        within(RELEASE_TIME, done).await;
    }

    /// Writes a claim into the store, and closes the session of the claim before it.
    async fn write(
        self: &Arc<Self>,
        key: &Subject,
        claim: u64,
        takes_over: bool,
    ) -> Result<Claimed, ClaimError> {
        let Some(store) = &self.store else {
            return Err(ClaimError::NoStore);
        };
        let owner = self.owner(claim);
        for attempt in 0..TRIES {
            let current = match store.get(key).await {
                Ok(current) => current,
                Err(error) => return self.away(error, takes_over),
            };
            if let Some(entry) = &current
                && !takes_over
                && self.is_taken(entry, claim).await
            {
                return Err(ClaimError::Taken);
            }
            let revision = current.as_ref().map(|entry| entry.revision);
            let previous = current.and_then(|entry| Value::of(&entry));
            let previous = previous.map(|value| value.owner);
            let value = Value { owner, previous };
            match lock(&self.local).get_mut(claim) {
                Some(local) => local.attempted = true,
                None => return Err(ClaimError::Closed),
            }
            match store.put_if(key, revision, value.encode()).await {
                Ok(revision) => {
                    let is_open = self.written(key, claim, revision);
                    let previous = match previous {
                        Some(owner) => self.close_owner(owner, claim).await,
                        None => Previous::None,
                    };
                    if !is_open {
                        return Err(ClaimError::Closed);
                    }
                    return Ok(Claimed { previous });
                }
                Err(PutError::Conflict) => {
                    let pause = Duration::from_millis(5 << attempt);
                    sleep(pause.mul_f64(fastrand::f64())).await;
                }
                Err(PutError::Store(error)) => {
                    if !lock(&self.local).contains(claim) {
                        self.remove_entry(claim, key.clone(), None);
                    }
                    return self.away(error, takes_over);
                }
            }
        }
        Err(ClaimError::Contended)
    }

    /// Returns the result of a claim that the store has not taken. A unique name cannot be given
    /// without it.
    fn away(&self, error: StoreError, takes_over: bool) -> Result<Claimed, ClaimError> {
        match self.away {
            StoreAway::Admit if takes_over => Ok(Claimed {
                previous: Previous::Unknown,
            }),
            _ => Err(ClaimError::Store(error)),
        }
    }

    /// Records that the store has a claim. Returns `false`, and removes it, if its session has
    /// closed meanwhile.
    fn written(self: &Arc<Self>, key: &Subject, claim: u64, revision: Revision) -> bool {
        let mut local = lock(&self.local);
        if let Some(local) = local.get_mut(claim) {
            local.revision = Some(revision);
            local.written = Instant::now();
            return true;
        }
        drop(local);
        self.remove_entry(claim, key.clone(), Some(revision));
        false
    }

    /// Returns `true` if an entry belongs to another open session than that of `claim`.
    async fn is_taken(&self, entry: &Entry, claim: u64) -> bool {
        let Some(Value { owner, .. }) = Value::of(entry) else {
            return false;
        };
        if owner.node == self.inner.id {
            let is_open = lock(&self.local).contains(owner.claim);
            return is_open && !self.is_same_session(owner.claim, claim);
        }
        if self.inner.nodes.is_alive(owner.node) {
            return true;
        }
        if self.inner.nodes.is_dead(owner.node) {
            return false;
        }
        // One of both may have started just now.
        let name = Bytes::copy_from_slice(self.name.as_bytes());
        let _ = self.inner.publish_to(owner.node, Kind::Hello, name);
        let alive = self.inner.nodes.wait_for(owner.node);
        within(ALIVE_TIME, alive).await.is_some()
    }

    /// Returns `true` if two claims of this node are of one session.
    fn is_same_session(&self, one: u64, two: u64) -> bool {
        let local = lock(&self.local);
        let session = |claim| local.get(claim).map(|local| local.session_id);
        session(one).is_some_and(|id| session(two) == Some(id))
    }

    /// Closes the session of an earlier claim, unless it is that of `claim`.
    async fn close_owner(self: &Arc<Self>, owner: Owner, claim: u64) -> Previous {
        if owner.node == self.inner.id {
            if self.is_same_session(owner.claim, claim) {
                // It has claimed its own name again.
                self.replace(owner.claim, claim);
                return Previous::None;
            }
            self.close(owner.claim);
            return Previous::Closed;
        }
        let (acknowledge, mut acknowledged) = oneshot::channel();
        lock(&self.awaited)
            .entry(owner.claim)
            .or_default()
            .push(acknowledge);
        let request = Bytes::copy_from_slice(&owner.claim.to_be_bytes());
        let asked = async {
            loop {
                let _ = self
                    .inner
                    .publish_to(owner.node, Kind::CloseClaim, request.clone());
                if within(CLOSE_REPEAT, &mut acknowledged).await.is_some() {
                    return;
                }
            }
        };
        // A dead node gets one request: it may be alive, and only its beats are missing.
        let time = if self.inner.nodes.is_dead(owner.node) {
            CLOSE_REPEAT
        } else {
            CLOSE_TIME
        };
        let closed = within(time, asked).await;
        if closed.is_some() {
            return Previous::Closed;
        }
        let set = Arc::downgrade(self);
        self.inner
            .runtime
            .spawn(close_later(set, owner, acknowledged));
        Previous::Unreachable
    }

    /// Replaces a claim by a later one of the same session and name. If the session was to be
    /// closed with the loss of the first one, it is so with the loss of the other.
    fn replace(&self, claim: u64, later: u64) {
        let closes = self
            .remove_local(claim)
            .is_some_and(|local| local.unique.is_none());
        if closes && let Some(later) = lock(&self.local).get_mut(later) {
            later.unique = None;
        }
    }

    /// Ends a claim that another has replaced: closes its session, or reports the loss of a unique
    /// name.
    pub(crate) fn close(self: &Arc<Self>, claim: u64) {
        let removed = lock(&self.local).remove(claim);
        let Some((local, session)) =
            removed.and_then(|local| local.session.upgrade().map(|session| (local, session)))
        else {
            return;
        };
        let Some(name) = local.unique else {
            self.inner.counters.taken_over.add(1);
            session.close_with(CloseReason::TakenOver);
            return;
        };
        session.remove_close_callback("getty-cluster claim", claim);
        if local.writing {
            // The session has not got it yet: its claim fails.
            return;
        }
        self.counters.lost.add(1);
        let Some(hook) = &self.lost else {
            tracing::warn!(
                target: "getty::cluster",
                set = self.name,
                connection = session.id(),
                "a session has lost its name to another session",
            );
            return;
        };
        // Code of the application. A panic must not end the task of the control frames.
        let lost = LostName { name, session };
        if catch_unwind(AssertUnwindSafe(|| hook(lost))).is_err() {
            tracing::error!(target: "getty::cluster", "the hook of a lost name has panicked");
        }
    }

    /// Records that another node has closed the session of a claim.
    pub(crate) fn acknowledged(&self, claim: u64) {
        let requests = lock(&self.awaited).remove(&claim);
        for acknowledge in requests.into_iter().flatten() {
            let _ = acknowledge.send(());
        }
    }

    /// Compares all claims of this node with the store: closes the sessions of those that others
    /// have taken, and writes those that are missing or old.
    pub(crate) async fn check_all(self: &Arc<Self>) {
        if self.check_waits.swap(true, Relaxed) {
            return;
        }
        let _checking = self.checking.lock().await;
        self.check_waits.store(false, Relaxed);
        let claims: Vec<_> = lock(&self.local)
            .claims
            .iter()
            .map(|(claim, local)| (*claim, local.key.clone()))
            .collect();
        // A request to a store that does not answer takes some seconds.
        let mut away = HashSet::new();
        for (claim, key) in claims {
            let part = self.part(&key);
            if away.contains(&part) {
                continue;
            }
            if let Err(error) = self.check(claim, &key).await {
                tracing::debug!(target: "getty::cluster", %key, %error, "a claim was not checked");
                away.insert(part);
                continue;
            }
            sleep(CHECK_PAUSE).await;
        }
    }

    /// Compares a claim with the store: writes it, or closes its session if it has lost the name.
    /// Returns `false` if the claim was not written and must be checked again.
    async fn check(self: &Arc<Self>, claim: u64, key: &Subject) -> Result<bool, StoreError> {
        let Some(store) = &self.store else {
            return Ok(true);
        };
        // Before the entry, which then cannot be older than what this node has written.
        let written = match lock(&self.local).get(claim) {
            Some(local) if !local.writing => local.revision.map(|_| local.written),
            _ => return Ok(true),
        };
        let entry = store.get(key).await?;
        let current = entry.as_ref().map(|entry| entry.revision);
        let value = entry.and_then(|entry| Value::of(&entry));
        let owner = self.owner(claim);
        let previous = match value {
            Some(value) if value.owner == owner => {
                if written.is_some_and(|written| written.elapsed() < RENEW) {
                    return Ok(true);
                }
                value.previous
            }
            Some(Value { owner, .. })
                if owner.node == self.inner.id && self.is_same_session(owner.claim, claim) =>
            {
                // The session has claimed its own name again.
                self.replace(claim, owner.claim);
                return Ok(true);
            }
            // It has taken the name from this claim.
            Some(_) if written.is_some() => {
                self.close(claim);
                return Ok(true);
            }
            // This claim was made while the store was away, so it is the later one.
            value => value.map(|value| value.owner),
        };
        let value = Value { owner, previous };
        match lock(&self.local).get_mut(claim) {
            Some(local) => local.attempted = true,
            None => return Ok(true),
        }
        match store.put_if(key, current, value.encode()).await {
            Ok(revision) => {
                self.written(key, claim, revision);
                if let (Some(owner), None) = (previous, written) {
                    self.close_owner(owner, claim).await;
                }
                Ok(true)
            }
            // Another claim is faster. If it has replaced this one, its request closes the session.
            // A claim that was never written is unknown to others, so only a check can end it.
            Err(PutError::Conflict) => Ok(written.is_some()),
            Err(PutError::Store(error)) => {
                if !lock(&self.local).contains(claim) {
                    self.remove_entry(claim, key.clone(), None);
                }
                Err(error)
            }
        }
    }

    /// Returns the part of the store that has `key`.
    fn part(&self, key: &Subject) -> usize {
        self.store.as_ref().map_or(0, |store| store.part(key))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of names of this node's sessions.
    pub(crate) fn len(&self) -> usize {
        lock(&self.local).claims.len()
    }

    fn owner(&self, claim: u64) -> Owner {
        Owner {
            node: self.inner.id,
            claim,
        }
    }
}

/// Writes a claim that was made while the store was away.
async fn write_later(set: Weak<ClaimSet>, claim: u64, key: Subject) {
    loop {
        sleep(WRITE_LATER.mul_f64(0.5 + fastrand::f64())).await;
        let Some(set) = set.upgrade() else { return };
        // It also succeeds once the claim has ended.
        if let Ok(true) = set.check(claim, &key).await {
            return;
        }
    }
}

/// Removes entries of claims that have ended, until none is left.
async fn remove_later(set: Weak<ClaimSet>) {
    loop {
        sleep(WRITE_LATER.mul_f64(0.5 + fastrand::f64())).await;
        let Some(set) = set.upgrade() else { return };
        let claims: Vec<_> = {
            let mut ended = lock(&set.ended);
            ended.is_retried = !ended.claims.is_empty();
            let claims = ended.claims.iter();
            let claims = claims.map(|(claim, (key, _))| (*claim, set.part(key)));
            claims.collect()
        };
        if claims.is_empty() {
            return;
        }
        let mut away = HashSet::new();
        for (claim, part) in claims {
            if !away.contains(&part) && set.try_remove_entry(claim).await.is_err() {
                away.insert(part);
            }
        }
    }
}

/// Goes on to request the close of an earlier session whose node has not answered in time.
async fn close_later(set: Weak<ClaimSet>, owner: Owner, mut acknowledged: oneshot::Receiver<()>) {
    for _ in 0..CLOSE_LATER {
        if within(CLOSE_TIME, &mut acknowledged).await.is_some() {
            return;
        }
        let Some(set) = set.upgrade() else { return };
        let request = Bytes::copy_from_slice(&owner.claim.to_be_bytes());
        let _ = set.inner.publish_to(owner.node, Kind::CloseClaim, request);
    }
    drop(acknowledged);
    let Some(set) = set.upgrade() else { return };
    let mut awaited = lock(&set.awaited);
    if let hash_map::Entry::Occupied(mut requests) = awaited.entry(owner.claim) {
        requests.get_mut().retain(|request| !request.is_closed());
        if requests.get().is_empty() {
            requests.remove();
        }
    }
}

impl fmt::Debug for ClaimsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimsBuilder")
            .field("name", &self.name)
            .field("away", &self.away)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("name", &self.set.name)
            .field("len", &self.len())
            .field("cluster", &self.cluster.inner.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;

    use super::*;
    use crate::NodeId;

    #[tokio::test(start_paused = true)]
    async fn claims_that_request_the_same_close_all_await_it() {
        let cluster = Cluster::of("app").start();
        cluster.up().await;
        let set = Arc::clone(&cluster.claims("users").set);
        let owner = Owner {
            node: NodeId(1),
            claim: 5,
        };
        let both = || join(set.close_owner(owner, 1), set.close_owner(owner, 2));
        let closed = both().await;
        assert_eq!(closed, (Previous::Unreachable, Previous::Unreachable));
        sleep(CLOSE_TIME * (CLOSE_LATER + 1)).await;
        assert!(lock(&set.awaited).is_empty());

        let (closed, ()) = join(both(), async {
            sleep(CLOSE_REPEAT / 2).await;
            set.acknowledged(owner.claim);
        })
        .await;
        assert_eq!(closed, (Previous::Closed, Previous::Closed));
    }
}
