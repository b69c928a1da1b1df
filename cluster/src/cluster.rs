//! The cluster as one node sees it.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use getty_core::ApplicationClose;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Claims, ClaimsBuilder, ClusterTopics, Key, Node, NodeId, Snapshot, Subject, TopicsBuilder,
    TopicsSnapshot,
    bus::{Bus, Event, Memory, PublishError, Shard, Sink, Store},
    claims::ClaimSet,
    close,
    counters::{Counters, number},
    dispatch::Dispatch,
    form::Form,
    frame::{Frame, FrameError, HEADER, Header, Kind},
    lock,
    nodes::Nodes,
    presence::{Watched, Watches},
    questions::{Questions, read_answer, write_answers},
    random_id,
    subject::{token, topic_prefix, topic_set},
};

/// Number of tasks that pass received messages to topics.
const DISPATCHERS: usize = 4;
/// Maximum number of control frames that wait.
const CONTROL_FRAMES: usize = 16 * 1024;
/// Maximum size of the control frames that wait, in bytes.
const CONTROL_BYTES: usize = 32 * 1024 * 1024;
/// Time in which a repeated close of a topic is ignored.
const CLOSES_KNOWN_FOR: Duration = Duration::from_secs(10);
/// Maximum number of closes that are known.
const MAX_CLOSES: usize = 64 * 1024;
/// Time in which a control frame that arrives again is ignored. A shard may be late.
const FRAMES_KNOWN_FOR: Duration = Duration::from_secs(30);
/// Maximum number of control frames that are known.
const MAX_FRAMES: usize = 128 * 1024;
/// Time before the others may declare this node dead at which its claims are checked.
const PAUSE_MARGIN: Duration = Duration::from_secs(1);
/// Longest key, in bytes.
pub(crate) const MAX_KEY: usize = 4096;

/// State of the bus of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Connected, and all subscriptions are in effect.
    Up,
    /// Connected, and subscriptions are being restored.
    Settling,
    /// Some shards of a [`Sharded`](crate::bus::Sharded) bus are away, and the topics of all others
    /// work. No other bus has this state.
    Partial {
        /// Number of shards that are not connected, or whose subscriptions are being restored.
        away: usize,
    },
    /// Not connected. Members on this node still receive broadcasts of this node.
    Down {
        /// The time at which the connection was lost, or the cluster was started.
        since: Instant,
    },
}

impl State {
    /// Returns `true` if the state is `Up`.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }

    /// Returns `true` if control frames arrive.
    pub(crate) const fn has_settled(self) -> bool {
        matches!(self, Self::Up | Self::Partial { .. })
    }
}

/// One node of a cluster. Clones are the same node, which ends when the last clone and the last
/// topics and claims of it are dropped.
///
/// Scope: process.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
    tasks: Arc<Tasks>,
}

/// Builder of a [`Cluster`]; see [`Cluster::of`].
#[must_use = "a builder does nothing until `start` is called"]
pub struct ClusterBuilder {
    namespace: String,
    name: Option<Arc<str>>,
    bus: Option<Arc<dyn Bus>>,
    max_frame: usize,
    reasons: Vec<ApplicationClose>,
}

type Sets = Vec<(Arc<str>, Weak<dyn Set>)>;

/// State of a node, without the tasks that work on it.
pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) id: NodeId,
    name: Arc<str>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) counters: Counters,
    pub(crate) nodes: Nodes,
    pub(crate) questions: Questions,
    pub(crate) watches: Watches,
    pub(crate) watched: Arc<Watched>,
    pub(crate) runtime: Handle,
    /// Longest frame, in bytes.
    pub(crate) max_frame: usize,
    number: AtomicU64,
    state: watch::Sender<State>,
    settling: Mutex<Settling>,
    /// Sets of topics by their names. There are few.
    sets: RwLock<Sets>,
    claim_sets: Mutex<Vec<Weak<ClaimSet>>>,
    /// Messages of topics that wait.
    dispatch: Dispatch,
    /// Start of the subjects of topics.
    topic_prefix: String,
    control: mpsc::Sender<Frame>,
    /// Size of the control frames that wait, in bytes.
    control_bytes: AtomicUsize,
    closes: Mutex<Recent>,
    /// Hashes of control frames. A bus may deliver each frame several times.
    frames: Mutex<Recent>,
    hasher: RandomState,
    /// `true` once this node has said goodbye.
    has_left: AtomicBool,
    reasons: Vec<ApplicationClose>,
}

/// Time that subscriptions take to be in effect.
#[derive(Default)]
struct Settling {
    /// Time of the last connection, until they are.
    connected: Option<Instant>,
    last: Option<Duration>,
}

/// A set of topics, without its types.
pub(crate) trait Set: Send + Sync {
    /// Returns the counters, with the numbers of topics.
    fn snapshot(&self) -> TopicsSnapshot;
    /// Queues a message of another node, whose key has a length of `key`.
    fn receive(&self, header: Header, key: usize, frame: Bytes, to: &Dispatch);
    /// Closes the members of a topic.
    fn close_members(&self, key: &[u8], reason: getty_core::CloseReason) -> usize;
    /// Returns the cards of the members of a topic.
    fn cards(&self, key: &[u8]) -> Vec<String>;
}

/// Ids that were seen in the last seconds.
struct Recent {
    ids: HashSet<u64>,
    by_age: VecDeque<(Instant, u64)>,
    known_for: Duration,
    max: usize,
}

impl Recent {
    fn new(known_for: Duration, max: usize) -> Self {
        Self {
            ids: HashSet::new(),
            by_age: VecDeque::new(),
            known_for,
            max,
        }
    }

    /// Returns `true` if the id was not seen before.
    fn insert(&mut self, id: u64) -> bool {
        let now = Instant::now();
        while let Some((seen, oldest)) = self.by_age.front() {
            let is_known = now.duration_since(*seen) < self.known_for;
            if is_known && self.by_age.len() < self.max {
                break;
            }
            self.ids.remove(oldest);
            self.by_age.pop_front();
        }
        let is_new = self.ids.insert(id);
        if is_new {
            self.by_age.push_back((now, id));
        }
        is_new
    }
}

/// Aborts the tasks of a node when it is dropped.
struct Tasks {
    handles: Vec<AbortHandle>,
    /// Ends the thread of the bus.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.take();
        self.handles.iter().for_each(AbortHandle::abort);
    }
}

impl Cluster {
    /// Returns a builder of a node in the cluster with the name `namespace`. All nodes of an
    /// application must have the same, and no other application on the same bus.
    pub fn of(namespace: &str) -> ClusterBuilder {
        ClusterBuilder {
            namespace: token(namespace.as_bytes()),
            name: None,
            bus: None,
            max_frame: 256 * 1024,
            reasons: Vec::new(),
        }
    }

    /// Returns the id of this node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Returns the name of this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Creates a set of topics with a name that is the same on all nodes, such as `rooms`.
    ///
    /// # Panics
    ///
    /// Panics if this node has topics with that name already.
    pub fn topics<K: Key, Out: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        form: impl Form<Out>,
    ) -> ClusterTopics<K, Out> {
        self.topics_builder(name, form).build()
    }

    /// Returns a builder of topics with other settings; see [`topics`](Self::topics).
    pub fn topics_builder<K: Key, Out: Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        form: impl Form<Out>,
    ) -> TopicsBuilder<K, Out> {
        TopicsBuilder::new(self.clone(), name, form)
    }

    /// Creates a set of claims with a name that is the same on all nodes, such as `users`.
    ///
    /// # Panics
    ///
    /// Panics if this node has claims with that name already.
    #[must_use]
    pub fn claims(&self, name: &str) -> Claims {
        self.claims_builder(name).build()
    }

    /// Returns a builder of claims with other settings; see [`claims`](Self::claims).
    pub fn claims_builder(&self, name: &str) -> ClaimsBuilder {
        ClaimsBuilder::new(self.clone(), name)
    }

    /// Returns the state of the bus.
    #[must_use]
    pub fn state(&self) -> State {
        *self.inner.state.borrow()
    }

    /// Waits until the state is [`Up`](State::Up). If the bus is [`Sharded`](crate::bus::Sharded),
    /// it waits for all shards.
    pub async fn up(&self) {
        let mut states = self.inner.state.subscribe();
        // It fails only if the sender is dropped, and `self` keeps it.
        let _ = states.wait_for(|state| state.is_up()).await;
    }

    /// Waits until the state is [`Down`](State::Down).
    pub async fn down(&self) {
        let mut states = self.inner.state.subscribe();
        let down = |state: &State| matches!(state, State::Down { .. });
        let _ = states.wait_for(down).await;
    }

    /// Returns the states of the shards of a [`Sharded`](crate::bus::Sharded) bus, in their order.
    /// The list is empty for any other bus.
    #[must_use]
    pub fn shards(&self) -> Vec<Shard> {
        self.inner.bus.shards()
    }

    /// Returns the other living nodes, in no particular order.
    ///
    /// A node is known from its first beat, within milliseconds of its start. It is removed when it
    /// leaves, or at most 10 s after its last beat in a cluster of up to 300 nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.inner.nodes.list()
    }

    /// Returns the counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// Leaves the cluster, so that other nodes know at once that this one ends. It publishes no
    /// more beats. Call it after the server has drained. It waits until the claims of closed
    /// sessions are released, at most for 2 s.
    pub async fn leave(&self) {
        let claims = self.inner.claim_sets();
        for set in claims {
            set.released().await;
        }
        self.inner.has_left.store(true, Relaxed);
        self.inner
            .publish_to_all(Kind::Goodbye, Bytes::new(), Bytes::new());
        self.inner.bus.flush().await;
        #[cfg(feature = "metrics")]
        crate::metrics::publish(&self.inner);
    }
}

impl ClusterBuilder {
    /// Sets the bus. The default is a new [`Memory`]: a cluster of one node.
    pub fn over(mut self, bus: impl Bus) -> Self {
        self.bus = Some(Arc::new(bus));
        self
    }

    /// Sets the name of this node for logs and lists, such as a host name. The default is its id.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the longest frame between nodes, in bytes. The default is 256 KiB. The limit of the bus
    /// applies as well.
    pub const fn with_max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// Sets the application's close reasons that other nodes may send with
    /// [`ClusterTopics::close`]. A reason that is not among them closes a session as
    /// [`Protocol`](getty_core::CloseReason::Protocol), with its name and its code over WebSocket.
    pub fn with_close_reasons(
        mut self,
        reasons: impl IntoIterator<Item = ApplicationClose>,
    ) -> Self {
        self.reasons = reasons.into_iter().collect();
        self
    }

    /// Starts the node. It does not wait for the bus; see [`Cluster::up`].
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or if the operating system can start no thread for the bus.
    #[must_use]
    pub fn start(self) -> Cluster {
        let id = NodeId(random_id());
        let bus = self.bus.unwrap_or_else(|| Arc::new(Memory::new()));
        let (control, frames) = mpsc::channel(CONTROL_FRAMES);
        let inner = Arc::new(Inner {
            name: self.name.unwrap_or_else(|| id.to_string().into()),
            topic_prefix: topic_prefix(&self.namespace),
            namespace: self.namespace,
            id,
            store: bus.store(),
            max_frame: self.max_frame.min(bus.limits().frame),
            bus,
            counters: Counters::default(),
            nodes: Nodes::default(),
            questions: Questions::default(),
            watches: Watches::default(),
            watched: Arc::default(),
            runtime: Handle::current(),
            number: AtomicU64::new(0),
            state: watch::Sender::new(State::Down {
                since: Instant::now(),
            }),
            settling: Mutex::default(),
            sets: RwLock::default(),
            claim_sets: Mutex::default(),
            dispatch: Dispatch::default(),
            control,
            control_bytes: AtomicUsize::new(0),
            closes: Mutex::new(Recent::new(CLOSES_KNOWN_FOR, MAX_CLOSES)),
            frames: Mutex::new(Recent::new(FRAMES_KNOWN_FOR, MAX_FRAMES)),
            hasher: RandomState::new(),
            has_left: AtomicBool::new(false),
            reasons: self.reasons,
        });
        inner.bus.subscribe(&[
            (Subject::all(&inner.namespace), true),
            (Subject::node(&inner.namespace, id), true),
        ]);
        let (bus, stop) = run_bus(&inner);
        let mut handles: Vec<_> = (0..DISPATCHERS)
            .map(|_| {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move { inner.dispatch.run().await }).abort_handle()
            })
            .collect();
        handles.extend(bus);
        handles.push(tokio::spawn(control_frames(Arc::clone(&inner), frames)).abort_handle());
        handles.push(tokio::spawn(beats(Arc::clone(&inner))).abort_handle());
        #[cfg(feature = "metrics")]
        handles.push(tokio::spawn(crate::metrics::run(Arc::clone(&inner))).abort_handle());
        let tasks = Arc::new(Tasks { handles, stop });
        Cluster { inner, tasks }
    }
}

/// Runs the bus in a task, or in a thread if it needs one.
fn run_bus(
    inner: &Arc<Inner>,
) -> (
    Option<AbortHandle>,
    Option<tokio::sync::oneshot::Sender<()>>,
) {
    let bus = Arc::clone(&inner.bus);
    let sink = Arc::new(Receiver(Arc::clone(inner)));
    // The bus may handle messages only on its own thread.
    let application = bus.needs_thread().then(|| inner.runtime.clone());
    let run = async move {
        let run = async {
            let run = bus.run(Arc::clone(&sink) as Arc<dyn Sink>);
            tokio::select! {
                biased;
                error = run => error,
                () = sink.0.dispatch.relay(application.as_ref()) => "the relay has ended".into(),
            }
        };
        match AssertUnwindSafe(run).catch_unwind().await {
            Ok(error) => {
                tracing::error!(target: "getty::cluster", error = &*error, "the bus has ended");
            }
            Err(_) => tracing::error!(target: "getty::cluster", "the bus has panicked"),
        }
        sink.event(Event::Disconnected);
    };
    if !inner.bus.needs_thread() {
        return (Some(tokio::spawn(run).abort_handle()), None);
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the operating system provides an event queue");
    thread::Builder::new()
        .name("getty-cluster".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run => {}
                    _ = stopped => {}
                }
            });
        })
        .expect("the operating system starts a thread");
    (None, Some(stop))
}

impl Inner {
    /// Returns the next number of a frame.
    pub(crate) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn control_frame(&self, kind: Kind, key: Bytes, payload: Bytes) -> Bytes {
        let header = Header {
            kind,
            fresh: false,
            origin: self.id,
            number: self.next_number(),
            sequence: 0,
        };
        let frame = Frame {
            header,
            key,
            payload,
        };
        frame.encode()
    }

    pub(crate) fn publish_to_all(&self, kind: Kind, key: Bytes, payload: Bytes) -> bool {
        let frame = self.control_frame(kind, key, payload);
        self.bus
            .publish(&Subject::all(&self.namespace), frame)
            .is_ok()
    }

    pub(crate) fn publish_to(
        &self,
        node: NodeId,
        kind: Kind,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let frame = self.control_frame(kind, Bytes::new(), payload);
        self.bus
            .publish(&Subject::node(&self.namespace, node), frame)
    }

    pub(crate) fn publish_key_to(&self, node: NodeId, kind: Kind, key: Bytes, payload: Bytes) {
        let frame = self.control_frame(kind, key, payload);
        let _ = self
            .bus
            .publish(&Subject::node(&self.namespace, node), frame);
    }

    /// Registers a set of topics. Returns `false` if there is one with that name.
    pub(crate) fn add_set(&self, name: Arc<str>, set: Weak<dyn Set>) -> bool {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|(_, set)| set.strong_count() > 0);
        if sets.iter().any(|(other, _)| *other == name) {
            return false;
        }
        sets.push((name, set));
        true
    }

    /// Registers a set of claims. Returns `false` if there is one with that name.
    pub(crate) fn add_claim_set(&self, set: &Arc<ClaimSet>) -> bool {
        let others = self.claim_sets();
        if others.iter().any(|other| other.name() == set.name()) {
            return false;
        }
        let mut sets = lock(&self.claim_sets);
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Arc::downgrade(set));
        true
    }

    pub(crate) fn claim_sets(&self) -> Vec<Arc<ClaimSet>> {
        let sets = lock(&self.claim_sets);
        sets.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the counters of each set of topics.
    pub(crate) fn set_snapshots(&self) -> Vec<(Arc<str>, TopicsSnapshot)> {
        let sets: Vec<_> = {
            let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
            let sets = sets.iter();
            sets.filter_map(|(name, set)| Some((Arc::clone(name), set.upgrade()?)))
                .collect()
        };
        let snapshots = sets.into_iter().map(|(name, set)| (name, set.snapshot()));
        snapshots.collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let sets = self.set_snapshots();
        let sets = sets.into_iter().map(|(_, snapshot)| snapshot);
        let state = *self.state.borrow();
        let claims = self.claim_sets();
        Snapshot {
            nodes: self.nodes.len(),
            settled_in: lock(&self.settling).last,
            claims: claims.iter().map(|set| number(set.len())).sum(),
            ..self.counters.snapshot(state, self.bus.stats(), sets)
        }
    }

    /// Returns the changes of the state.
    pub(crate) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Returns `true` if control frames arrive now.
    pub(crate) fn has_settled_now(&self) -> bool {
        self.state.borrow().has_settled()
    }

    /// Waits until control frames arrive.
    pub(crate) async fn settled(&self) {
        let mut states = self.state.subscribe();
        // It fails only if the sender is dropped, and `self` keeps it.
        let _ = states.wait_for(|state| state.has_settled()).await;
    }

    pub(crate) fn set(&self, name: &str) -> Option<Arc<dyn Set>> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let (_, set) = sets.iter().find(|(other, _)| **other == *name)?;
        set.upgrade()
    }

    /// Checks the claims of this node, because others may have taken them unnoticed.
    fn check_claims(&self) {
        for set in self.claim_sets() {
            self.runtime.spawn(async move { set.check_all().await });
        }
    }

    fn control(self: &Arc<Self>, frame: Frame) {
        let origin = frame.header.origin;
        match frame.header.kind {
            Kind::Beat | Kind::Hello => {
                let name = String::from_utf8_lossy(&frame.payload);
                let is_new = self.nodes.heard(origin, &name);
                if is_new {
                    tracing::info!(target: "getty::cluster", node = %origin, %name, "a node has joined");
                    self.watches.wake();
                }
                if frame.header.kind == Kind::Hello {
                    self.beat();
                }
            }
            Kind::Goodbye => {
                if self.nodes.remove(origin) {
                    tracing::info!(target: "getty::cluster", node = %origin, "a node has left");
                    self.forget(origin);
                }
            }
            Kind::Ask => self.answer(&frame),
            Kind::Answer => match read_answer(frame.payload) {
                Some((id, cards, is_last)) => self.questions.answer(id, origin, cards, is_last),
                None => self.counters.invalid.add(1),
            },
            Kind::CloseTopic => self.close_topic(frame),
            Kind::CloseClaim => match frame.payload.clone().try_get_u64() {
                Ok(claim) => {
                    for set in self.claim_sets() {
                        set.close(claim);
                    }
                    // A claim that is not here has ended, which is the same to the other node.
                    let _ = self.publish_to(origin, Kind::ClaimClosed, frame.payload);
                }
                Err(_) => self.counters.invalid.add(1),
            },
            Kind::ClaimClosed => match frame.payload.clone().try_get_u64() {
                Ok(claim) => {
                    for set in self.claim_sets() {
                        set.acknowledged(claim);
                    }
                }
                Err(_) => self.counters.invalid.add(1),
            },
            Kind::Watch | Kind::Unwatch => {
                let mut payload = frame.payload;
                let id = payload.try_get_u64();
                match (id, std::str::from_utf8(&payload)) {
                    (Ok(id), Ok(set)) if frame.header.kind == Kind::Watch => {
                        self.watch_requested(origin, id, &(set.into(), frame.key));
                    }
                    (Ok(id), Ok(set)) => self.unwatch(origin, id, &(set.into(), frame.key)),
                    _ => self.counters.invalid.add(1),
                }
            }
            Kind::List => {
                if !self.list_received(origin, frame.payload) {
                    self.counters.invalid.add(1);
                }
            }
            Kind::Message => self.counters.invalid.add(1),
        }
    }

    /// Records that a node has ended.
    fn forget(&self, node: NodeId) {
        self.questions.forget(node);
        self.watches.forget(node);
        self.watched.forget(node);
    }

    /// Records that the bus has settled, completely or in part.
    fn settle(&self, state: State) {
        let mut settling = lock(&self.settling);
        if let Some(connected) = settling.connected.take() {
            settling.last = Some(connected.elapsed());
        }
        drop(settling);
        if !self.has_settled_now() {
            // Before the watchers see the state and request new lists.
            self.watches.restart();
        }
        let before = self.state.send_replace(state);
        if before.has_settled() {
            let away = |state| match state {
                State::Partial { away } => away,
                _ => 0,
            };
            let lost = away(state).saturating_sub(away(before));
            if lost > 0 {
                self.counters.disconnects.add(number(lost));
                let (node, away) = (self.id, away(state));
                tracing::warn!(target: "getty::cluster", %node, away, "a shard of the bus is not connected");
                return;
            }
        } else {
            // All others have been heard over the shards that were there.
            self.nodes.restart();
            self.watched.all_changed();
        }
        self.watches.wake();
        self.hello();
        self.check_claims();
    }

    /// Queues a control frame.
    fn push_control(&self, frame: Frame) {
        let size = frame.size();
        let waiting = self.control_bytes.fetch_add(size, Relaxed);
        let has_room = waiting == 0 || waiting + size <= CONTROL_BYTES;
        if !has_room || self.control.try_send(frame).is_err() {
            self.control_bytes.fetch_sub(size, Relaxed);
            self.counters.unread.add(1);
        }
    }

    fn beat(&self) {
        self.show_life(Kind::Beat);
    }

    fn hello(&self) {
        self.show_life(Kind::Hello);
    }

    fn show_life(&self, kind: Kind) {
        if !self.has_left.load(Relaxed) {
            let name = Bytes::copy_from_slice(self.name.as_bytes());
            self.publish_to_all(kind, Bytes::new(), name);
        }
    }

    fn answer(&self, frame: &Frame) {
        let mut payload = frame.payload.clone();
        let (Ok(id), Ok(name)) = (payload.try_get_u64(), std::str::from_utf8(&payload)) else {
            self.counters.invalid.add(1);
            return;
        };
        let cards = self.set(name).map(|set| set.cards(&frame.key));
        let max = self.max_frame.saturating_sub(HEADER);
        for answer in write_answers(id, &cards.unwrap_or_default(), max) {
            let _ = self.publish_to(frame.header.origin, Kind::Answer, answer);
        }
    }

    fn close_topic(&self, frame: Frame) {
        let read = || {
            let mut payload = frame.payload;
            let id = payload.try_get_u64().ok()?;
            let len = usize::from(payload.try_get_u16().ok()?);
            if len > payload.len() {
                return None;
            }
            let set = payload.split_to(len);
            let reason = close::read(payload, &self.reasons)?;
            Some((id, std::str::from_utf8(&set).ok()?.to_owned(), reason))
        };
        let Some((id, set, reason)) = read() else {
            self.counters.invalid.add(1);
            return;
        };
        if lock(&self.closes).insert(id)
            && let Some(set) = self.set(&set)
        {
            set.close_members(&frame.key, reason);
        }
    }
}

/// Payload of a frame that closes the members of a topic.
pub(crate) fn close_payload(id: u64, set: &str, reason: &getty_core::CloseReason) -> Bytes {
    use bytes::BufMut;
    let mut payload = BytesMut::new();
    payload.put_u64(id);
    payload.put_u16(u16::try_from(set.len()).expect("a token is short"));
    payload.put_slice(set.as_bytes());
    close::write(reason, &mut payload);
    payload.freeze()
}

/// Receives from the bus.
struct Receiver(Arc<Inner>);

impl Sink for Receiver {
    fn deliver(&self, subject: &str, frame: Bytes) {
        let inner = &*self.0;
        let invalid = |error: FrameError| {
            inner.counters.invalid.add(1);
            tracing::debug!(target: "getty::cluster", subject, %error, "a frame is not readable");
        };
        let (header, key) = match Header::read(&frame) {
            Ok(read) => read,
            Err(error) => return invalid(error),
        };
        if header.origin == inner.id {
            return;
        }
        let Some(set) = topic_set(subject, &inner.topic_prefix) else {
            // With the number of the frame and all else: a damaged copy must not replace it.
            let hash = inner.hasher.hash_one(&frame[..]);
            match Frame::decode(frame) {
                Ok(frame) => {
                    if lock(&inner.frames).insert(hash) {
                        inner.push_control(frame);
                    }
                }
                Err(error) => invalid(error),
            }
            return;
        };
        if header.kind != Kind::Message {
            inner.counters.invalid.add(1);
            return;
        }
        if let Some(set) = inner.set(set) {
            set.receive(header, key, frame, &inner.dispatch);
        }
    }

    fn event(&self, event: Event) {
        let inner = &*self.0;
        match event {
            Event::Connected => {
                lock(&inner.settling).connected = Some(Instant::now());
                let before = inner.state.send_replace(State::Settling);
                if before.has_settled() {
                    // The last shard that had settled is lost, and another one settles.
                    inner.counters.disconnects.add(1);
                    inner.watches.wake();
                    tracing::warn!(target: "getty::cluster", node = %inner.id, "no shard of the bus has settled");
                    return;
                }
                tracing::info!(target: "getty::cluster", node = %inner.id, "the bus is connected");
            }
            Event::Settled => inner.settle(State::Up),
            Event::Partial { away } => inner.settle(State::Partial { away }),
            Event::Disconnected => {
                let since = Instant::now();
                let was_connected = inner.state.send_if_modified(|state| {
                    let was_connected = !matches!(state, State::Down { .. });
                    if was_connected {
                        *state = State::Down { since };
                    }
                    was_connected
                });
                // An attempt to connect may also have failed.
                if was_connected {
                    inner.counters.disconnects.add(1);
                    inner.watches.wake();
                    tracing::warn!(target: "getty::cluster", node = %inner.id, "the bus is not connected");
                }
            }
            Event::Lost(frames) => inner.counters.unread.add(frames),
        }
    }
}

async fn control_frames(inner: Arc<Inner>, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        inner.control_bytes.fetch_sub(frame.size(), Relaxed);
        // Keys are code of the application. A panic must not end this task.
        if catch_unwind(AssertUnwindSafe(|| inner.control(frame))).is_err() {
            inner.counters.invalid.add(1);
            tracing::error!(target: "getty::cluster", node = %inner.id, "a control frame has panicked");
        }
    }
}

/// Publishes beats and notices nodes whose beats are missing.
async fn beats(inner: Arc<Inner>) {
    inner.beat();
    let mut last = Instant::now();
    loop {
        let beat = last + inner.nodes.period();
        let expiry = inner.nodes.next_expiry();
        // Without the bus no beats arrive, and no node is declared dead.
        let expiry = expiry.filter(|_| inner.state.borrow().has_settled());
        sleep_until(expiry.map_or(beat, |expiry| expiry.min(beat))).await;
        let now = Instant::now();
        if now >= beat {
            if now.duration_since(last) >= inner.nodes.limit() - PAUSE_MARGIN {
                // The process was stopped. Others may have declared it dead.
                inner.nodes.restart();
                inner.hello();
                inner.check_claims();
            }
            inner.beat();
            last = now;
        }
        if !inner.state.borrow().has_settled() {
            continue;
        }
        for Node { id, name } in inner.nodes.expire() {
            tracing::warn!(target: "getty::cluster", node = %id, %name, "a node is dead: its beats are missing");
            inner.forget(id);
        }
    }
}

/// Waits until `part` is ready, at most for `time`.
pub(crate) async fn within<F: Future>(time: Duration, part: F) -> Option<F::Output> {
    timeout(time, part).await.ok()
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("id", &self.inner.id)
            .field("name", &self.inner.name)
            .field("state", &self.state())
            .field("tasks", &self.tasks.handles.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
