//! Bus and store within a process.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tower::BoxError;

use super::{
    Bus, BusStats, Entry, Event, Limits, Outgoing, OutgoingLimits, PublishError, PutError,
    Revision, Sink, Store, StoreError,
};
use crate::{Subject, lock};

/// Bus and store in memory: the nodes are in one process. It is the default of a cluster.
///
/// A clone is the bus of **another** node that exchanges frames with this one: each cluster
/// takes a bus by value, so `over(bus.clone())` starts one more node. A handle to the bus of
/// the same node is [`same_node`](Self::same_node).
///
/// A program that runs on one machine needs no server, and tests can run several nodes. Faults
/// can be [injected](Self::with_faults), and a node can be [cut off](Self::set_connected).
pub struct Memory {
    network: Arc<Network>,
    port: Arc<Port>,
}

type Faults = dyn FnMut(&Subject, &[u8]) -> Fault + Send;

struct Network {
    ports: Mutex<Vec<Weak<Port>>>,
    faults: Mutex<Option<Box<Faults>>>,
    entries: Mutex<HashMap<Subject, Entry>>,
    revision: AtomicU64,
}

/// Connection of one node.
struct Port {
    outgoing: Outgoing,
    state: Mutex<PortState>,
    changed: Notify,
}

struct PortState {
    subjects: HashSet<Subject>,
    connected: bool,
    /// State that the sink of `run` knows.
    announced: bool,
    incoming: Vec<(Option<Instant>, Subject, Bytes)>,
}

/// Fate of a frame; see [`Memory::with_faults`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The frame arrives.
    #[default]
    None,
    /// The frame is lost.
    Drop,
    /// The frame arrives twice.
    Duplicate,
    /// The frame arrives later, and so do frames behind it.
    Delay(Duration),
}

impl Memory {
    /// Longest frame, in bytes.
    const MAX_FRAME: usize = 1024 * 1024;

    /// Creates a new bus. Clones of it are the buses of other nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::attach(Arc::new(Network {
            ports: Mutex::default(),
            faults: Mutex::default(),
            entries: Mutex::default(),
            revision: AtomicU64::new(0),
        }))
    }

    /// Sets a function that decides about each frame to each node. The default is no fault.
    #[must_use]
    pub fn with_faults(
        self,
        faults: impl FnMut(&Subject, &[u8]) -> Fault + Send + 'static,
    ) -> Self {
        *lock(&self.network.faults) = Some(Box::new(faults));
        self
    }

    /// Connects this node, or cuts it off from all others and from the store. It is connected at
    /// first.
    pub fn set_connected(&self, connected: bool) {
        lock(&self.port.state).connected = connected;
        self.port.changed.notify_one();
    }

    /// Returns a handle to the bus of this node, as opposed to a clone, which is another node. It
    /// can be used to cut off a node that owns its bus.
    #[must_use]
    pub fn same_node(&self) -> Self {
        Self {
            network: Arc::clone(&self.network),
            port: Arc::clone(&self.port),
        }
    }

    fn attach(network: Arc<Network>) -> Self {
        let port = Arc::new(Port {
            outgoing: Outgoing::new(OutgoingLimits::default()),
            state: Mutex::new(PortState {
                subjects: HashSet::new(),
                connected: true,
                announced: false,
                incoming: Vec::new(),
            }),
            changed: Notify::new(),
        });
        let mut ports = lock(&network.ports);
        ports.retain(|port| port.strong_count() > 0);
        ports.push(Arc::downgrade(&port));
        drop(ports);
        Self { network, port }
    }

    /// Passes a frame to all nodes that subscribe to its subject.
    fn distribute(&self, to: &Subject, frame: &Bytes) {
        let ports = lock(&self.network.ports);
        for port in ports.iter().filter_map(Weak::upgrade) {
            let mut state = lock(&port.state);
            if !state.connected || !state.subjects.contains(to) {
                continue;
            }
            let faults = &mut *lock(&self.network.faults);
            let fault = faults
                .as_mut()
                .map_or(Fault::None, |fault| fault(to, frame));
            let (copies, due) = match fault {
                Fault::None => (1, None),
                Fault::Drop => (0, None),
                Fault::Duplicate => (2, None),
                Fault::Delay(time) => (1, Some(Instant::now() + time)),
            };
            for _ in 0..copies {
                state.incoming.push((due, to.clone(), frame.clone()));
            }
            drop(state);
            port.changed.notify_one();
        }
    }

    fn reached(&self) -> Result<(), StoreError> {
        if lock(&self.port.state).connected {
            Ok(())
        } else {
            Err(StoreError::new("the node is cut off"))
        }
    }
}

impl Port {
    /// Notifies the sink of a change. Returns `true` if the port is connected.
    fn announce(&self, sink: &dyn Sink) -> bool {
        let mut state = lock(&self.state);
        let (before, now) = (state.announced, state.connected);
        state.announced = now;
        if !now {
            state.incoming.clear();
        }
        drop(state);
        match (before, now) {
            (false, true) => {
                self.outgoing.open();
                sink.event(Event::Connected);
                sink.event(Event::Settled);
            }
            (true, false) => {
                self.outgoing.close();
                sink.event(Event::Disconnected);
            }
            _ => {}
        }
        now
    }
}

impl Bus for Memory {
    fn limits(&self) -> Limits {
        Limits {
            frame: Self::MAX_FRAME,
        }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if frame.len() > Self::MAX_FRAME {
            return Err(PublishError::TooLarge);
        }
        if !lock(&self.port.state).connected {
            return Err(PublishError::Away);
        }
        self.port.outgoing.push(to, frame)?;
        self.port.changed.notify_one();
        Ok(())
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        let mut state = lock(&self.port.state);
        for (subject, wanted) in changes {
            if *wanted {
                state.subjects.insert(subject.clone());
            } else {
                state.subjects.remove(subject);
            }
        }
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        Box::pin(async move {
            loop {
                let changed = self.port.changed.notified();
                if self.port.announce(&*sink) {
                    while let Some((to, frame)) = self.port.outgoing.try_pop() {
                        self.distribute(&to, &frame);
                    }
                    let incoming = std::mem::take(&mut lock(&self.port.state).incoming);
                    for (due, subject, frame) in incoming {
                        if let Some(due) = due {
                            sleep_until(due).await;
                        }
                        sink.deliver(subject.as_str(), frame);
                    }
                    // A frame may have come back to this node meanwhile.
                    let is_empty = lock(&self.port.state).incoming.is_empty();
                    if !is_empty || self.port.outgoing.len().0 > 0 {
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                changed.await;
            }
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(self.same_node()))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while !self.port.outgoing.is_drained() {
                tokio::task::yield_now().await;
            }
        })
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn stats(&self) -> BusStats {
        let (queued_frames, queued_bytes) = self.port.outgoing.len();
        BusStats {
            queued_frames,
            queued_bytes,
            probe: None,
        }
    }

    fn needs_thread(&self) -> bool {
        false
    }
}

impl Store for Memory {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let entry = lock(&self.network.entries).get(key).cloned();
        let result = self.reached().map(|()| entry);
        Box::pin(async { result })
    }

    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        let put = || {
            self.reached()?;
            let mut entries = lock(&self.network.entries);
            if entries.get(key).map(|entry| entry.revision) != was {
                return Err(PutError::Conflict);
            }
            let revision = Revision(self.network.revision.fetch_add(1, Relaxed) + 1);
            let value = Some(value);
            entries.insert(key.clone(), Entry { revision, value });
            Ok(revision)
        };
        let result = put();
        Box::pin(async { result })
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        let remove = || {
            self.reached()?;
            let mut entries = lock(&self.network.entries);
            let is_current = entries.get(key).is_some_and(|entry| entry.revision == was);
            if is_current {
                entries.remove(key);
            }
            Ok(is_current)
        };
        let result = remove();
        Box::pin(async { result })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::attach(Arc::clone(&self.network))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.port.state);
        f.debug_struct("Memory")
            .field("connected", &state.connected)
            .field("subjects", &state.subjects.len())
            .finish_non_exhaustive()
    }
}
