//! A bus that fails in ways that a network and a server do.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use getty_cluster::{
    Subject,
    bus::{
        Bus, BusStats, Entry, Event, Fault, Limits, PublishError, PutError, Revision, Shard, Sink,
        Store, StoreError,
    },
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tower::BoxError;

/// Function that decides about a frame to a node.
pub(crate) type Fate = dyn FnMut(usize, &str, &[u8]) -> Fault + Send;

/// Faults of a bus and its store.
pub(crate) struct Faults {
    /// The store has done what it was asked, and its answer is lost.
    pub(crate) loses_answers: AtomicBool,
    /// The store removes nothing.
    pub(crate) refuses_removals: AtomicBool,
    /// Notified, the bus panics.
    pub(crate) panic: Notify,
    /// Each frame is sent a second time, with other bytes.
    pub(crate) garbles: AtomicBool,
    /// Number of next writes before which another node's is faster.
    pub(crate) conflicts: AtomicU64,
    /// Number of successful writes to the store.
    pub(crate) puts: AtomicU64,
    /// Subscriptions are in effect while it has a permit.
    pub(crate) confirms: Semaphore,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loses_answers: AtomicBool::default(),
            refuses_removals: AtomicBool::default(),
            panic: Notify::default(),
            garbles: AtomicBool::default(),
            conflicts: AtomicU64::default(),
            puts: AtomicU64::default(),
            confirms: Semaphore::new(1),
        }
    }
}

/// A node's bus with faults.
pub(crate) struct Spy {
    bus: Box<dyn Bus>,
    place: usize,
    fate: Arc<Mutex<Option<Box<Fate>>>>,
    faults: Arc<Faults>,
}

impl Spy {
    pub(crate) const fn new(
        bus: Box<dyn Bus>,
        place: usize,
        fate: Arc<Mutex<Option<Box<Fate>>>>,
        faults: Arc<Faults>,
    ) -> Self {
        Self {
            bus,
            place,
            fate,
            faults,
        }
    }
}

impl Bus for Spy {
    fn limits(&self) -> Limits {
        self.bus.limits()
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if self.faults.garbles.load(Relaxed) {
            let mut bytes = frame.to_vec();
            match fastrand::u8(..3) {
                0 => bytes.truncate(fastrand::usize(..bytes.len())),
                1 => bytes.extend((0..fastrand::usize(..20)).map(|_| fastrand::u8(..))),
                _ => {}
            }
            for _ in 0..3 {
                // The version and the origin stay, so that most are read beyond these.
                let place = fastrand::usize(..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(place)
                    && (place == 1 || place > 10)
                {
                    *byte = fastrand::u8(..);
                }
            }
            self.bus.publish(to, bytes.into())?;
        }
        self.bus.publish(to, frame)
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        self.bus.subscribe(changes);
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        Box::pin(async move {
            let (delayed, mut frames) = mpsc::unbounded_channel::<(Instant, String, Bytes)>();
            let later = Arc::clone(&sink);
            let delays = async move {
                while let Some((due, subject, frame)) = frames.recv().await {
                    sleep_until(due).await;
                    later.deliver(&subject, frame);
                }
                std::future::pending().await
            };
            let sink = Arc::new(SpySink {
                sink,
                place: self.place,
                fate: Arc::clone(&self.fate),
                delayed,
            });
            let panics = async {
                self.faults.panic.notified().await;
                panic!("a bus")
            };
            tokio::select! {
                error = self.bus.run(sink) => error,
                error = panics => error,
                error = delays => error,
            }
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        let inner = self.bus.store()?;
        let faults = Arc::clone(&self.faults);
        Some(Arc::new(SpyStore { inner, faults }))
    }

    fn subscribed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _permit = self.faults.confirms.acquire().await;
            self.bus.subscribed().await;
        })
    }

    fn subscribed_to<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let _permit = self.faults.confirms.acquire().await;
            self.bus.subscribed_to(subject).await;
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.bus.flush()
    }

    fn kind(&self) -> &'static str {
        self.bus.kind()
    }

    fn stats(&self) -> BusStats {
        self.bus.stats()
    }

    fn shards(&self) -> Vec<Shard> {
        self.bus.shards()
    }

    fn needs_thread(&self) -> bool {
        self.bus.needs_thread()
    }
}

/// Decides about the frames that a bus has received.
struct SpySink {
    sink: Arc<dyn Sink>,
    place: usize,
    fate: Arc<Mutex<Option<Box<Fate>>>>,
    delayed: mpsc::UnboundedSender<(Instant, String, Bytes)>,
}

impl Sink for SpySink {
    fn deliver(&self, subject: &str, frame: Bytes) {
        let fate = {
            let mut fate = self.fate.lock().unwrap();
            let fate = fate.as_mut();
            fate.map(|fate| fate(self.place, subject, &frame))
        };
        match fate {
            None => self.sink.deliver(subject, frame),
            Some(Fault::Drop) => {}
            Some(Fault::Delay(time)) => self.later(time, subject, frame),
            // Behind those that are delayed.
            Some(Fault::Duplicate) => {
                self.later(std::time::Duration::ZERO, subject, frame.clone());
                self.later(std::time::Duration::ZERO, subject, frame);
            }
            Some(_) => self.later(std::time::Duration::ZERO, subject, frame),
        }
    }

    fn event(&self, event: Event) {
        self.sink.event(event);
    }
}

impl SpySink {
    fn later(&self, time: std::time::Duration, subject: &str, frame: Bytes) {
        let frame = (Instant::now() + time, subject.to_owned(), frame);
        // It fails once the bus has ended.
        let _ = self.delayed.send(frame);
    }
}

struct SpyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl Store for SpyStore {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.inner.get(key)
    }

    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        let conflicts = &self.faults.conflicts;
        let is_late = conflicts.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        if is_late.is_ok() {
            return Box::pin(async { Err(PutError::Conflict) });
        }
        let put = self.inner.put_if(key, was, value);
        Box::pin(async move {
            let result = put.await;
            self.faults
                .puts
                .fetch_add(u64::from(result.is_ok()), Relaxed);
            if self.faults.loses_answers.load(Relaxed) {
                return Err(StoreError::new("the answer is lost").into());
            }
            result
        })
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        if self.faults.refuses_removals.load(Relaxed) {
            return Box::pin(async { Err(StoreError::new("no answer")) });
        }
        self.inner.remove_if(key, was)
    }

    fn part(&self, key: &Subject) -> usize {
        self.inner.part(key)
    }
}
