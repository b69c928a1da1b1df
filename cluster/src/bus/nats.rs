//! Bus and store over NATS.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event as NatsEvent, Subscriber,
    jetstream::{
        self,
        kv::{self, CreateErrorKind, UpdateErrorKind},
        stream::LastRawMessageErrorKind,
    },
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, SelectAll},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, interval, sleep, timeout},
};
use tower::BoxError;

use super::{
    Bus, Entry, Event, Limits, Outgoing, OutgoingLimits, PublishError, PutError, Revision, Sink,
    Store, StoreError,
    wanted::{Wanted, reconnect_delay},
};
use crate::{Subject, lock, random_id};

/// Time in which a connection must open, and a request must be answered.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two probes of a connection.
const PROBE: Duration = Duration::from_secs(3);
/// Time after which a connection is lost if no probe has arrived: two are missing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);
/// Frames that the client of NATS may hold. They can still be sent after a reconnect.
const CLIENT_CAPACITY: usize = 256;
/// Frames of one subscription that may wait until they are read.
const SUBSCRIPTION_CAPACITY: usize = 1024;
/// Longest frame, in bytes. It is the default of NATS.
const MAX_FRAME: usize = 1024 * 1024;
/// Time after which an entry of the store expires.
const EXPIRY: Duration = Duration::from_secs(48 * 60 * 60);

/// Bus over NATS 2.9 or later, with a store of claims in a bucket of JetStream.
///
/// Each node has two connections: one for the messages of topics, and one that they cannot delay
/// for everything else. Each publishes a probe to the other every 3 s. If probes are missing for
/// 8 s, both are opened anew after a random time: up to 5 s at first, and later up to 30 s.
/// Servers that belong to one NATS cluster route the messages; see NATS's documentation.
///
/// The client library holds some 5 KB for each subscription. A node with more than some 10,000
/// topics should distribute them over [buckets](crate::TopicsBuilder::with_buckets).
///
/// ```no_run
/// use getty_cluster::{Cluster, bus::Nats};
///
/// # async fn check() {
/// let cluster = Cluster::of("chat").over(Nats::new("nats://127.0.0.1:4222")).start();
/// cluster.up().await;
/// # }
/// ```
pub struct Nats(Arc<Shared>);

struct Shared {
    servers: String,
    options: Mutex<Box<dyn Fn() -> ConnectOptions + Send>>,
    bucket: String,
    replicas: usize,
    data: Part,
    control: Part,
    /// Bucket of claims, while there is a connection.
    store: Mutex<Option<kv::Store>>,
    /// Client for control frames, while there is a connection.
    client: Mutex<Option<Client>>,
}

/// One of the two connections of a node.
struct Part {
    wanted: Wanted,
    outgoing: Outgoing,
}

/// Why a connection ends.
type Failure = BoxError;

impl Nats {
    /// Creates a new bus for the servers at `servers`: one or more URLs with commas between them. It
    /// connects when the cluster starts.
    #[must_use]
    pub fn new(servers: impl Into<String>) -> Self {
        let part = || Part {
            wanted: Wanted::default(),
            outgoing: Outgoing::new(OutgoingLimits::default()),
        };
        Self(Arc::new(Shared {
            servers: servers.into(),
            options: Mutex::new(Box::new(ConnectOptions::new)),
            bucket: "getty_claims".to_owned(),
            replicas: 1,
            data: part(),
            control: part(),
            store: Mutex::new(None),
            client: Mutex::new(None),
        }))
    }

    /// Sets a function that returns the options of each connection, for credentials and TLS. The
    /// bus sets the options for names, probes, queues and reconnects itself.
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    #[must_use]
    pub fn with_options(mut self, options: impl Fn() -> ConnectOptions + Send + 'static) -> Self {
        self.shared().options = Mutex::new(Box::new(options));
        self
    }

    /// Sets the bucket of claims, and the number of servers that keep each. The default is
    /// `getty_claims` with 1. It is created if it does not exist.
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    #[must_use]
    pub fn with_bucket(mut self, name: impl Into<String>, replicas: usize) -> Self {
        let shared = self.shared();
        shared.bucket = name.into();
        shared.replicas = replicas;
        self
    }

    /// Sets the limits of the queues to the server.
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    #[must_use]
    pub fn with_limits(mut self, limits: OutgoingLimits) -> Self {
        let shared = self.shared();
        shared.data.outgoing = Outgoing::new(limits);
        shared.control.outgoing = Outgoing::new(limits);
        self
    }

    fn shared(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.0).expect("settings come before the start of the cluster")
    }
}

impl Shared {
    fn part(&self, subject: &Subject) -> &Part {
        if subject.is_control() {
            &self.control
        } else {
            &self.data
        }
    }

    async fn connect(&self, name: &str) -> Result<(Client, mpsc::Receiver<NatsEvent>), Failure> {
        let (events, received) = mpsc::channel(64);
        let options = lock(&self.options)();
        let options = options
            .name(name)
            .no_echo()
            .connection_timeout(TIMEOUT)
            .ping_interval(Duration::from_secs(5))
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            // This bus opens a new connection itself.
            .max_reconnects(1)
            .event_callback(move |event| {
                // Only the first events matter, so a full channel loses nothing.
                let _ = events.try_send(event);
                std::future::ready(())
            });
        let client = timeout(TIMEOUT, options.connect(self.servers.as_str())).await??;
        Ok((client, received))
    }

    /// Works until a connection fails, and returns the reason.
    async fn connected(&self, sink: &Arc<dyn Sink>) -> Result<(), Failure> {
        let (data, data_events) = self.connect("getty data").await?;
        let (control, control_events) = self.connect("getty control").await?;
        sink.event(Event::Connected);
        self.data.outgoing.open();
        self.control.outgoing.open();
        let wanted = self.control.wanted.restart();
        let probe = probe_prefix(&wanted);
        let probes = Probes {
            on_data: data.subscribe(format!("{probe}.data")).await?,
            on_control: control.subscribe(format!("{probe}.control")).await?,
            probe,
        };
        let mut control_reader = Reader::new(control.clone());
        for subject in wanted {
            control_reader.subscribe(subject).await?;
        }
        let mut data_reader = Reader::new(data.clone());
        for subject in self.data.wanted.restart() {
            data_reader.subscribe(subject).await?;
        }
        let store = self.open_store(&control).await;
        *lock(&self.store) = store;
        *lock(&self.client) = Some(control.clone());
        let sink = &**sink;
        tokio::try_join!(
            control_reader.run(&self.control.wanted, sink),
            data_reader.run(&self.data.wanted, sink),
            self.control.publish(control.clone()),
            self.data.publish(data.clone()),
            probes.run(data, control, sink),
            watch(data_events, sink),
            watch(control_events, sink),
        )?;
        Ok(())
    }

    /// Opens the bucket of claims. Without JetStream there is none.
    async fn open_store(&self, client: &Client) -> Option<kv::Store> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(TIMEOUT);
        if let Ok(store) = context.get_key_value(&self.bucket).await {
            return Some(store);
        }
        let config = kv::Config {
            bucket: self.bucket.clone(),
            max_age: EXPIRY,
            history: 1,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        let created = context.create_key_value(config).await;
        created
            .inspect_err(|error| {
                tracing::warn!(
                    target: "getty::cluster",
                    bucket = self.bucket,
                    error = error as &dyn std::error::Error,
                    "there is no store of claims: is JetStream enabled?",
                );
            })
            .ok()
    }

    fn open(&self) -> Result<kv::Store, StoreError> {
        let store = lock(&self.store).clone();
        store.ok_or_else(|| StoreError::new("NATS is not connected, or has no JetStream"))
    }
}

/// Probes from each connection to the other.
struct Probes {
    on_data: Subscriber,
    on_control: Subscriber,
    probe: String,
}

impl Probes {
    /// Publishes probes. The first that arrives comes after all subscriptions of its connection, so
    /// both together show that these are in effect.
    async fn run(mut self, data: Client, control: Client, sink: &dyn Sink) -> Result<(), Failure> {
        let mut ticks = interval(PROBE);
        let (mut of_data, mut of_control) = (None, None);
        let began = Instant::now();
        let mut is_settled = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let heard = of_data.unwrap_or(began).min(of_control.unwrap_or(began));
                    if heard.elapsed() > PROBE_TIMEOUT {
                        return Err("probes were not answered".into());
                    }
                    data.publish(format!("{}.control", self.probe), Bytes::new()).await?;
                    control.publish(format!("{}.data", self.probe), Bytes::new()).await?;
                }
                probe = self.on_control.next() => {
                    probe.ok_or(ENDED)?;
                    of_data = Some(Instant::now());
                }
                probe = self.on_data.next() => {
                    probe.ok_or(ENDED)?;
                    of_control = Some(Instant::now());
                }
            }
            if !is_settled && of_data.is_some() && of_control.is_some() {
                is_settled = true;
                sink.event(Event::Settled);
            }
        }
    }
}

const ENDED: &str = "the connection to NATS has ended";

/// Returns the prefix of subjects for probes. It is below that of the application, which may be
/// all that it has a permission for.
fn probe_prefix(wanted: &[Subject]) -> String {
    let namespace = wanted.first().map(|subject| {
        let parts: Vec<_> = subject.as_str().splitn(3, '.').take(2).collect();
        parts.join(".")
    });
    let namespace = namespace.unwrap_or_else(|| "getty".to_owned());
    format!("{namespace}.p.{:016x}", random_id())
}

/// Ends when the client says that the connection is lost.
async fn watch(mut events: mpsc::Receiver<NatsEvent>, sink: &dyn Sink) -> Result<(), Failure> {
    loop {
        match events.recv().await {
            Some(NatsEvent::Connected) => {}
            Some(NatsEvent::SlowConsumer(_)) => sink.event(Event::Lost(1)),
            Some(event @ (NatsEvent::ServerError(_) | NatsEvent::ClientError(_))) => {
                tracing::warn!(target: "getty::cluster", %event, "NATS has reported an error");
            }
            Some(NatsEvent::LameDuckMode) => {
                return Err("the server of NATS is going to end".into());
            }
            Some(event) => return Err(format!("the connection to NATS is {event}").into()),
            None => return Err(ENDED.into()),
        }
    }
}

/// Subscriptions of a connection.
struct Reader {
    client: Client,
    messages: SelectAll<BoxStream<'static, (Subject, Bytes)>>,
    ends: HashMap<Subject, oneshot::Sender<()>>,
}

impl Reader {
    fn new(client: Client) -> Self {
        Self {
            client,
            messages: SelectAll::new(),
            ends: HashMap::new(),
        }
    }

    async fn subscribe(&mut self, subject: Subject) -> Result<(), Failure> {
        let subscriber = self.client.subscribe(subject.to_string()).await?;
        let (end, ended) = oneshot::channel();
        let of_messages = subject.clone();
        // Dropped at its end, the subscriber unsubscribes.
        let messages = subscriber
            .take_until(ended)
            .map(move |message| (of_messages.clone(), message.payload));
        self.messages.push(messages.boxed());
        self.ends.insert(subject, end);
        Ok(())
    }

    /// Passes messages to `sink` and follows the wanted subscriptions.
    async fn run(mut self, wanted: &Wanted, sink: &dyn Sink) -> Result<(), Failure> {
        loop {
            let (add, remove) = wanted.take();
            for subject in &remove {
                self.ends.remove(subject);
            }
            for subject in add {
                self.subscribe(subject).await?;
            }
            tokio::select! {
                // It is `None` while there is no subscription.
                Some((subject, frame)) = self.messages.next() => {
                    sink.deliver(subject.as_str(), frame);
                }
                () = wanted.changed() => {}
            }
        }
    }
}

impl Part {
    async fn publish(&self, client: Client) -> Result<(), Failure> {
        loop {
            let (to, frame) = self.outgoing.pop().await;
            client.publish(to.to_string(), frame).await?;
        }
    }
}

impl Bus for Nats {
    fn limits(&self) -> Limits {
        Limits { frame: MAX_FRAME }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if frame.len() > MAX_FRAME {
            return Err(PublishError::TooLarge);
        }
        self.0.part(to).outgoing.push(to, frame)
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        for change in changes {
            self.0
                .part(&change.0)
                .wanted
                .change(std::slice::from_ref(change));
        }
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let result = shared.connected(&sink).await;
                let had_settled = lock(&shared.client).take().is_some();
                lock(&shared.store).take();
                shared.data.outgoing.close();
                shared.control.outgoing.close();
                sink.event(Event::Disconnected);
                if let Err(error) = result {
                    tracing::warn!(target: "getty::cluster", error = &*error, "the connection to NATS has failed");
                }
                attempt = if had_settled { 0 } else { attempt + 1 };
                sleep(reconnect_delay(attempt)).await;
            }
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self(Arc::clone(&self.0))))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let flushed = async {
                while self.0.control.outgoing.len().0 > 0 {
                    sleep(Duration::from_millis(1)).await;
                }
                let client = lock(&self.0.client).clone();
                if let Some(client) = client {
                    // An error means that there is nothing to wait for.
                    let _ = client.flush().await;
                }
            };
            let _ = timeout(TIMEOUT, flushed).await;
        })
    }
}

impl Store for Nats {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let store = self.0.open()?;
            // From the leader: another server might return an older value.
            let subject = format!("{}{key}", store.prefix);
            let message = match store.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => message,
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                    return Ok(None);
                }
                Err(error) => return Err(StoreError::new(error)),
            };
            // A deleted entry is a message with a header.
            let is_value = message.headers.get("KV-Operation").is_none();
            Ok(is_value.then(|| Entry {
                revision: Revision(message.sequence),
                value: message.payload,
            }))
        })
    }

    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        let key = key.clone();
        Box::pin(async move {
            let store = self.0.open()?;
            let put = match was {
                Some(was) => match store.update(key.as_str(), value, was.0).await {
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                        return Err(PutError::Conflict);
                    }
                    put => put.map_err(StoreError::new),
                },
                None => match store.create(key.as_str(), value).await {
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                        return Err(PutError::Conflict);
                    }
                    put => put.map_err(StoreError::new),
                },
            };
            Ok(Revision(put?))
        })
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let store = self.0.open()?;
            match store
                .delete_expect_revision(key.as_str(), Some(was.0))
                .await
            {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
                Err(error) => Err(StoreError::new(error)),
            }
        })
    }
}

impl fmt::Debug for Nats {
    // The URLs may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("bucket", &self.0.bucket)
            .finish_non_exhaustive()
    }
}
