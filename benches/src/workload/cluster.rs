//! Broadcasts with and without a cluster, and messages of another node, without a server.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use getty::{BoxError, Connection, Session, Topics, driver};
use getty_cluster::{
    Cluster, ClusterTopics, Subject,
    bus::{Bus, Event, Limits, PublishError, Sink},
    form::Plain,
};
use tokio::{runtime::Runtime, task::yield_now};

use super::runtime;

/// Length of a message, in bytes.
const LEN: usize = 128;
/// Number of topics, which get messages in turn.
const TOPICS: usize = 16;
/// Messages that are sent before the member reads.
const BATCH: usize = 32;
/// Number of frames of another node in short and long runs. The cost of writing them will
/// cancel out.
const FRAMES: usize = 11_000;

/// Work with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A broadcast of [`Topics`], to one member.
    Topics,
    /// The same with a cluster, whose bus drops the frame.
    Broadcast,
    /// A broadcast with a cluster and no member here.
    Publish,
    /// A message of another node, to one member.
    Receive,
}

impl Kind {
    /// All kinds. The reference is first.
    pub const ALL: [Self; 4] = [Self::Topics, Self::Broadcast, Self::Publish, Self::Receive];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Topics => "cluster-none",
            Self::Broadcast => "cluster-broadcast",
            Self::Publish => "cluster-publish",
            Self::Receive => "cluster-receive",
        }
    }
}

/// A node whose bus has no server, and a member of all topics.
pub struct Node {
    kind: Kind,
    runtime: Runtime,
    local: Topics<String, Bytes>,
    topics: ClusterTopics<String, Bytes>,
    cluster: Cluster,
    bus: NoServer,
    keys: Vec<String>,
    /// Subjects of the topics.
    subjects: Vec<Subject>,
    frames: Mutex<std::vec::IntoIter<Bytes>>,
    driver: Mutex<driver::Driver<Bytes>>,
    _connection: Connection<()>,
}

impl Node {
    /// Creates a node, and frames for 11,000 messages.
    ///
    /// # Panics
    ///
    /// If no runtime can be created.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let runtime = runtime();
        let connection = Connection::new(());
        let (session, driver) = driver::pair(connection.handle().clone());
        let keys: Vec<_> = (0..TOPICS).map(|n| format!("room-{n:02}")).collect();
        let bus = NoServer::default();
        let local = Topics::new();
        let (cluster, topics) = runtime.block_on(async {
            let cluster = Cluster::of("bench").over(bus.clone()).start();
            let topics = cluster.topics("rooms", Plain);
            cluster.up().await;
            let members: &[String] = if kind == Kind::Publish { &[] } else { &keys };
            for key in members {
                join(key, &session, &local, &topics);
                topics.subscribed(&**key, Duration::from_secs(60)).await;
            }
            (cluster, topics)
        });
        let mut subjects: Vec<_> = bus.lock().subjects.drain(..).collect();
        subjects.sort();
        let frames = if kind == Kind::Receive { FRAMES } else { 0 };
        let frames: Vec<_> = (0..frames).map(|n| frame(n, &keys[n % TOPICS])).collect();
        Self {
            kind,
            runtime,
            local,
            topics,
            cluster,
            bus,
            keys,
            subjects,
            frames: Mutex::new(frames.into_iter()),
            driver: Mutex::new(driver),
            _connection: connection,
        }
    }

    /// Sends or receives messages, no more than 11,000 in all.
    ///
    /// # Panics
    ///
    /// If a message is missing.
    pub fn run(&self, messages: usize) {
        self.runtime.block_on(async {
            let mut sent = 0;
            while sent < messages {
                let batch = BATCH.min(messages - sent);
                match self.kind {
                    Kind::Topics => self.each(sent, batch, |key, message| {
                        self.local.broadcast(key, message);
                    }),
                    Kind::Broadcast | Kind::Publish => self.each(sent, batch, |key, message| {
                        assert!(self.topics.broadcast(key, message).is_ok());
                    }),
                    Kind::Receive => self.deliver(sent, batch),
                }
                sent += batch;
                let mut expected = if self.kind == Kind::Publish { 0 } else { batch };
                while expected > 0 {
                    yield_now().await;
                    expected -= self.received();
                }
            }
        });
    }

    /// Returns the messages that the bus has been given.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.cluster.snapshot().published
    }

    fn each(&self, first: usize, messages: usize, send: impl Fn(&str, Bytes)) {
        for n in first..first + messages {
            send(&self.keys[n % TOPICS], Bytes::from_static(&[b'x'; LEN]));
        }
    }

    fn deliver(&self, first: usize, messages: usize) {
        let sink = self.bus.lock().sink.clone();
        let sink = sink.expect("the bus runs");
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        for n in first..first + messages {
            let frame = frames.next().expect("there are enough frames");
            sink.deliver(self.subjects[n % TOPICS].as_str(), frame);
        }
    }

    /// Drops the messages that the member has received, and returns their number.
    fn received(&self) -> usize {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        driver.register(&Context::from_waker(Waker::noop()));
        let received = std::iter::from_fn(|| driver.next_outgoing()).count();
        driver.set_backpressure(false);
        received
    }
}

fn join(
    key: &str,
    session: &Session<Bytes>,
    local: &Topics<String, Bytes>,
    topics: &ClusterTopics<String, Bytes>,
) {
    assert!(local.join(key.to_owned(), session));
    assert!(topics.join(key.to_owned(), session));
}

/// Returns a frame of another node, as `getty-cluster` writes it.
fn frame(n: usize, key: &str) -> Bytes {
    let number = |n: usize| u64::try_from(n).expect("it fits");
    let mut frame = BytesMut::new();
    frame.put_slice(&[1, 0, 0]);
    frame.put_u64(7);
    frame.put_u64(number(n) + 1);
    frame.put_u64(number(n / TOPICS) + 1);
    frame.put_u16(u16::try_from(key.len()).expect("it is short"));
    frame.put_slice(key.as_bytes());
    frame.put_slice(&[b'x'; LEN]);
    frame.freeze()
}

/// A bus that drops what is published.
#[derive(Clone, Default)]
struct NoServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sink: Option<Arc<dyn Sink>>,
    /// Subjects of topics.
    subjects: Vec<Subject>,
}

impl NoServer {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bus for NoServer {
    fn limits(&self) -> Limits {
        Limits { frame: 1024 * 1024 }
    }

    fn publish(&self, _: &Subject, frame: Bytes) -> Result<(), PublishError> {
        drop(frame);
        Ok(())
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        let wanted = changes
            .iter()
            .filter(|(subject, wanted)| *wanted && !subject.is_control());
        let subjects = wanted.map(|(subject, _)| subject.clone());
        self.lock().subjects.extend(subjects);
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        sink.event(Event::Connected);
        sink.event(Event::Settled);
        self.lock().sink = Some(sink);
        Box::pin(std::future::pending())
    }

    fn needs_thread(&self) -> bool {
        false
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The sink refers to the cluster.
        drop(mem::take(&mut *self.bus.lock()));
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
