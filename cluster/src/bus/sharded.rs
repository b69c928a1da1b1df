//! Several independent buses as one, by the hash of the subject.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use tokio::{sync::watch, time::Instant};
use tower::BoxError;

use super::{
    Bus, BusStats, Entry, Event, Limits, PublishError, PutError, Revision, Sink, Store, StoreError,
};
use crate::{State, Subject, counters::Counter, lock};

/// Several buses as one. Each is a shard, which carries a part of the topics and claims.
///
/// One server of Redis uses one core, and the servers of one NATS cluster must all know each
/// subscription. Shards are servers, or clusters of servers, that do not know each other. So
/// their capacity adds up, and one that is away affects its own topics and claims.
///
/// ```
/// use getty_cluster::{Cluster, ClusterTopics, State, bus::{Memory, Sharded}, form::Plain};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // `Redis::new(..)?` or `Nats::new(..)?` for each server
/// let shards = [Memory::new(), Memory::new()];
/// let second = shards[1].same_node();
/// let cluster = Cluster::of("chat").over(Sharded::new(shards)).start();
/// cluster.up().await;
///
/// let rooms: ClusterTopics<String, String> = cluster.topics("rooms", Plain);
/// println!("the messages of tea use the shard {}", rooms.subject("tea").shard(2));
///
/// second.set_connected(false);
/// while cluster.state().is_up() {
///     tokio::task::yield_now().await;
/// }
/// assert_eq!(cluster.state(), State::Partial { away: 1 });
/// # }
/// ```
///
/// # Which shard
///
/// [`Subject::shard`] chooses the shard of a topic or a claim by a hash of its subject and by
/// the number of shards. It is the same on all nodes and in all versions of this crate. All
/// nodes must have the same shards **in the same order**. A node that finds another order logs
/// an error, and its [`Snapshot::invalid`](crate::Snapshot::invalid) grows. The two nodes know
/// each other only over shards that have the same index on both.
///
/// A new shard at the end takes over its share from all others: one third of all topics if it
/// is the third. Until all nodes have the same number of shards, nodes with different
/// numbers exchange no messages of these topics and do not see each other's claims of these
/// names. So the number should change while no node runs.
///
/// The hash has no secret. Users who choose the names of topics can choose names of one shard.
///
/// # Control frames
///
/// Beats, questions, answers, closes and messages about claims use all shards at once, and a
/// node drops those that it has received before. So they arrive while two nodes are connected
/// to one common shard. A node is dead when its beats are missing on all shards. The price is a
/// frame for each shard: an [`ask`](crate::ClusterTopics::ask) over four shards costs four
/// questions and four answers of each node.
///
/// # A shard that is away
///
/// - [`Cluster::state`](crate::Cluster::state) is [`Partial`](State::Partial) while some shards
///   have settled and others have not. [`Cluster::shards`](crate::Cluster::shards) has the state
///   of each.
/// - For topics of this shard [`Sent::bus`](crate::Sent::bus) is `Away`. Their members on other
///   nodes see a gap, as with one bus.
/// - Claims of this shard behave as while the store of one bus is away; see
///   [`StoreAway`](crate::StoreAway).
/// - Topics and claims of other shards, questions and closes work.
/// - No node is declared dead, as long as another shard carries its beats.
///
/// When the shard has settled again, the claims of this node are checked.
///
/// Two nodes without a common shard see each other as dead, even if both are connected to some
/// shard.
///
/// The shards share the thread of the bus. They must not be `Sharded` themselves, because the
/// inner ones would choose by the same hash.
pub struct Sharded<B> {
    buses: Vec<B>,
    statuses: Arc<Statuses>,
}

/// State of one bus of a [`Sharded`]; see [`Cluster::shards`](crate::Cluster::shards).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// State of its connection.
    pub state: State,
    /// Number of times that its connection was lost.
    pub disconnects: u64,
    /// Queue and probe of its connection.
    pub bus: BusStats,
}

struct Statuses {
    shards: Box<[Status]>,
    /// The last event that the cluster knows. Its lock keeps events in order.
    last: Mutex<Event>,
    /// Subject of frames to all nodes on the first shard, once it is known.
    all: OnceLock<Subject>,
    /// `true` once a node with another order of shards was reported.
    has_reported: AtomicBool,
}

/// State of a shard.
struct Status {
    state: watch::Sender<State>,
    disconnects: Counter,
    /// `true` once its bus has failed permanently.
    has_ended: AtomicBool,
}

impl<B> Sharded<B> {
    /// Creates a new bus from its shards. All nodes must have the same in the same order.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    #[must_use]
    pub fn new(shards: impl IntoIterator<Item = B>) -> Self {
        let buses: Vec<_> = shards.into_iter().collect();
        assert!(!buses.is_empty(), "a sharded bus has at least one shard");
        let status = |_: &B| Status {
            state: watch::Sender::new(State::Down {
                since: Instant::now(),
            }),
            disconnects: Counter::default(),
            has_ended: AtomicBool::new(false),
        };
        Self {
            statuses: Arc::new(Statuses {
                shards: buses.iter().map(status).collect(),
                last: Mutex::new(Event::Disconnected),
                all: OnceLock::new(),
                has_reported: AtomicBool::new(false),
            }),
            buses,
        }
    }

    /// Returns the index of the shard of a subject of topics or claims, with its bus.
    fn of(&self, subject: &Subject) -> (usize, &B) {
        let index = subject.shard(self.buses.len());
        (index, &self.buses[index])
    }

    fn status(&self, index: usize) -> &Status {
        &self.statuses.shards[index]
    }
}

impl<B: Bus> Sharded<B> {
    fn publish_on(&self, index: usize, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        // Nothing would read its queue.
        if self.status(index).has_ended.load(Relaxed) {
            return Err(PublishError::Away);
        }
        self.buses[index].publish(to, frame)
    }

    /// Runs a shard until it fails permanently.
    async fn run_shard(&self, index: usize, sink: Arc<dyn Sink>) -> BoxError {
        let sink: Arc<dyn Sink> = Arc::new(ShardSink {
            sink,
            statuses: Arc::clone(&self.statuses),
            index,
        });
        let run = async { self.buses[index].run(Arc::clone(&sink)).await };
        let error = AssertUnwindSafe(run).catch_unwind().await;
        let error = error.unwrap_or_else(|_| "the bus has panicked".into());
        self.status(index).has_ended.store(true, Relaxed);
        sink.event(Event::Disconnected);
        tracing::error!(target: "getty::cluster", shard = index, error = &*error, "a shard has ended");
        error
    }
}

impl<B: Bus> Bus for Sharded<B> {
    fn limits(&self) -> Limits {
        let frames = self.buses.iter().map(|bus| bus.limits().frame);
        Limits {
            frame: frames.min().unwrap_or_default(),
        }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if !to.is_control() {
            return self.publish_on(self.of(to).0, to, frame);
        }
        let mut result = Err(PublishError::Away);
        for index in 0..self.buses.len() {
            let published = self.publish_on(index, &to.on_shard(index), frame.clone());
            result = match (result, published) {
                (Ok(()), _) | (_, Ok(())) => Ok(()),
                (Err(PublishError::Away), error) => error,
                (error, _) => error,
            };
        }
        result
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        let mut of_shards = vec![Vec::new(); self.buses.len()];
        for (subject, wanted) in changes {
            if subject.is_control() {
                let is_for_all = subject.is_for_all();
                if is_for_all {
                    self.statuses.all.get_or_init(|| subject.clone());
                }
                for (index, changes) in of_shards.iter_mut().enumerate() {
                    changes.push((subject.on_shard(index), *wanted));
                    // Only nodes with another order publish to these.
                    let others =
                        (0..self.buses.len()).filter(|other| is_for_all && *other != index);
                    changes.extend(others.map(|other| (subject.on_shard(other), *wanted)));
                }
            } else {
                of_shards[self.of(subject).0].push((subject.clone(), *wanted));
            }
        }
        for (bus, changes) in self.buses.iter().zip(of_shards) {
            if !changes.is_empty() {
                bus.subscribe(&changes);
            }
        }
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        Box::pin(async move {
            let shards = 0..self.buses.len();
            let runs = shards.map(|index| self.run_shard(index, Arc::clone(&sink)));
            // It polls only those that were woken.
            let mut runs: FuturesUnordered<_> = runs.collect();
            let mut last = None;
            while let Some(error) = runs.next().await {
                last = Some(error);
            }
            last.unwrap_or_else(|| "there is no shard".into())
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        let stores: Option<Vec<_>> = self.buses.iter().map(Bus::store).collect();
        Some(Arc::new(ShardedStore(stores?)))
    }

    fn subscribed(&self) -> BoxFuture<'_, ()> {
        let shards = self.buses.iter().zip(&self.statuses.shards);
        // One that is away must not delay the others.
        let settled = shards.filter(|(_, status)| status.state.borrow().has_settled());
        let subscribed = join_all(settled.map(|(bus, _)| bus.subscribed()));
        Box::pin(async {
            subscribed.await;
        })
    }

    fn subscribed_to<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, ()> {
        if subject.is_control() {
            return self.subscribed();
        }
        let (index, bus) = self.of(subject);
        Box::pin(async move {
            let mut states = self.status(index).state.subscribe();
            // It fails only if the sender is dropped, and `self` keeps it.
            let _ = states.wait_for(|state| state.has_settled()).await;
            bus.subscribed_to(subject).await;
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        let places = 0..self.buses.len();
        // The queue of one that has ended is never read.
        let live = places.filter(|&index| !self.status(index).has_ended.load(Relaxed));
        let flushed = join_all(live.map(|index| self.buses[index].flush()));
        Box::pin(async {
            flushed.await;
        })
    }

    /// Returns the kind of the first shard.
    fn kind(&self) -> &'static str {
        self.buses[0].kind()
    }

    /// Returns the sums of the queues, and the longest time of a probe.
    fn stats(&self) -> BusStats {
        let mut sum = BusStats::default();
        for bus in &self.buses {
            let stats = bus.stats();
            sum.queued_frames += stats.queued_frames;
            sum.queued_bytes += stats.queued_bytes;
            sum.probe = sum.probe.max(stats.probe);
        }
        sum
    }

    fn shards(&self) -> Vec<Shard> {
        let shards = self.buses.iter().zip(&self.statuses.shards);
        let shards = shards.map(|(bus, status)| Shard {
            state: *status.state.borrow(),
            disconnects: status.disconnects.get(),
            bus: bus.stats(),
        });
        shards.collect()
    }

    fn needs_thread(&self) -> bool {
        self.buses.iter().any(Bus::needs_thread)
    }
}

/// The buses of another node, if a clone of each is one, as of [`Memory`](super::Memory).
impl<B: Clone> Clone for Sharded<B> {
    fn clone(&self) -> Self {
        Self::new(self.buses.iter().cloned())
    }
}

impl<B: fmt::Debug> fmt::Debug for Sharded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sharded").field(&self.buses).finish()
    }
}

/// Receives from one shard.
struct ShardSink {
    sink: Arc<dyn Sink>,
    statuses: Arc<Statuses>,
    index: usize,
}

impl Sink for ShardSink {
    fn deliver(&self, subject: &str, frame: Bytes) {
        let Statuses {
            all, has_reported, ..
        } = &*self.statuses;
        if let Some(all) = all.get()
            && subject.starts_with(all.as_str())
            && subject != all.on_shard(self.index).as_str()
        {
            if !has_reported.swap(true, Relaxed) {
                tracing::error!(
                    target: "getty::cluster",
                    shard = self.index,
                    subject,
                    "a node has the shards in another order",
                );
            }
            // It is counted as invalid.
            return self.sink.deliver(subject, Bytes::new());
        }
        self.sink.deliver(subject, frame);
    }

    fn event(&self, event: Event) {
        let next = match event {
            Event::Connected => State::Settling,
            Event::Settled => State::Up,
            Event::Partial { away } => State::Partial { away },
            Event::Disconnected => State::Down {
                since: Instant::now(),
            },
            Event::Lost(_) => return self.sink.event(event),
        };
        let Statuses { shards, last, .. } = &*self.statuses;
        let mut last = lock(last);
        let Status {
            state, disconnects, ..
        } = &shards[self.index];
        let was_down = matches!(*state.borrow(), State::Down { .. });
        let is_down = matches!(next, State::Down { .. });
        if was_down && is_down {
            // An attempt to connect has failed.
            return;
        }
        disconnects.add(u64::from(is_down));
        state.send_replace(next);
        let merged = merge(shards.iter().map(|shard| *shard.state.borrow()));
        if *last != merged {
            *last = merged;
            self.sink.event(merged);
        }
    }
}

/// Returns the event of the whole bus for the states of its shards.
fn merge(states: impl Iterator<Item = State>) -> Event {
    let (mut away, mut settled, mut connected) = (0, 0, 0);
    for state in states {
        away += usize::from(!state.is_up());
        settled += usize::from(state.has_settled());
        connected += usize::from(!matches!(state, State::Down { .. }));
    }
    match (away, settled, connected) {
        (_, _, 0) => Event::Disconnected,
        (_, 0, _) => Event::Connected,
        (0, _, _) => Event::Settled,
        _ => Event::Partial { away },
    }
}

/// The stores of all shards.
struct ShardedStore(Vec<Arc<dyn Store>>);

impl ShardedStore {
    fn of(&self, key: &Subject) -> &dyn Store {
        &*self.0[self.part(key)]
    }
}

impl Store for ShardedStore {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.of(key).get(key)
    }

    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        self.of(key).put_if(key, was, value)
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.of(key).remove_if(key, was)
    }

    fn part(&self, key: &Subject) -> usize {
        key.shard(self.0.len())
    }
}
