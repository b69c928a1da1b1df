//! A bus that fails in ways that a network and a server do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use getty_cluster::{
    Subject,
    bus::{
        Bus, Entry, Limits, Memory, PublishError, PutError, Revision, Sink, Store, StoreError,
    },
};
use tokio::sync::{Notify, Semaphore};
use tower::BoxError;

/// What goes wrong.
#[derive(Default)]
pub(crate) struct Faults {
    /// The store has done what it was asked, and its answer is lost.
    pub(crate) loses_answers: AtomicBool,
    /// The store removes nothing.
    pub(crate) refuses_removals: AtomicBool,
    /// Notified, the bus panics.
    pub(crate) panic: Notify,
    /// Each frame is sent a second time, with other bytes.
    pub(crate) garbles: AtomicBool,
    /// Number of successful writes to the store.
    pub(crate) puts: AtomicU64,
    /// Garbled frames.
    pub(crate) garbled: AtomicU64,
}

/// A node's bus in memory with faults.
pub(crate) struct Spy {
    bus: Memory,
    faults: Arc<Faults>,
    /// Subscriptions are in effect once it has a permit.
    confirms: Arc<Semaphore>,
}

impl Spy {
    pub(crate) fn new(bus: &Memory) -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        let spy = Self {
            bus: bus.clone(),
            faults: Arc::clone(&faults),
            confirms: Arc::new(Semaphore::new(1)),
        };
        (spy, faults)
    }

    /// Returns what confirms subscriptions.
    pub(crate) fn with_confirmation(mut self) -> (Self, Arc<Semaphore>) {
        self.confirms = Arc::new(Semaphore::new(0));
        let confirms = Arc::clone(&self.confirms);
        (self, confirms)
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
                if !(0..11).contains(&place) || place == 1 {
                    bytes.get_mut(place).map(|byte| *byte = fastrand::u8(..));
                }
            }
            self.faults.garbled.fetch_add(1, Relaxed);
            self.bus.publish(to, bytes.into())?;
        }
        self.bus.publish(to, frame)
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        self.bus.subscribe(changes);
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        Box::pin(async move {
            let panics = async {
                self.faults.panic.notified().await;
                panic!("a bus")
            };
            tokio::select! {
                error = self.bus.run(sink) => error,
                error = panics => error,
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
            let _permit = self.confirms.acquire().await;
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.bus.flush()
    }

    fn needs_thread(&self) -> bool {
        false
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
        let put = self.inner.put_if(key, was, value);
        Box::pin(async move {
            let result = put.await;
            self.faults.puts.fetch_add(u64::from(result.is_ok()), Relaxed);
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
}
