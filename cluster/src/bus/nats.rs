//! Bus and store over NATS.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event as NatsEvent, HeaderMap, Message, RequestErrorKind, ServerAddr,
    client::{PublishError as PublishErrorOfNats, PublishErrorKind},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, FusedFuture},
    stream::{BoxStream, SelectAll},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tower::BoxError;

use super::{
    Bus, BusStats, Entry, Event, Limits, OutgoingLimits, PublishError, PutError, Revision, Sink,
    Store, StoreError, UrlError,
    parts::{Part, Parts},
    wanted::{Subscription, Wanted},
    wire::{Wire, Work},
};
use crate::{Subject, lock, random_id};

/// Time in which a connection must open, and a request must be answered.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two probes of a connection.
const PROBE: Duration = Duration::from_secs(3);
/// Probes without an answer after which a connection is lost.
const MISSING_PROBES: u32 = 2;
/// The same before the first answer, which comes behind all subscriptions.
const MISSING_FIRST_PROBES: u32 = 10;
/// Time in which the server must take all subscriptions of a new connection.
const SET_UP_TIME: Duration = Duration::from_secs(60);
/// Time between two attempts to create the bucket of claims.
const CREATE_PAUSE: Duration = Duration::from_secs(5);
/// Frames that the client of NATS may hold. They can still be sent after a reconnect.
const CLIENT_CAPACITY: usize = 256;
/// Frames of one subscription that may wait until they are read.
const SUBSCRIPTION_CAPACITY: usize = 1024;
/// Longest frame, in bytes. It is the default of NATS. A server may have a lower limit.
const MAX_FRAME: usize = 1024 * 1024;
/// Time after which an entry of the store expires, in nanoseconds: 48 h.
const EXPIRY: u64 = 48 * 60 * 60 * 1_000_000_000;
/// Errors of JetStream.
const NO_MESSAGE: u64 = 10037;
const STREAM_EXISTS: u64 = 10058;
/// The expected sequence is not the last one. The second code is of a newer server.
const WRONG_SEQUENCE: [u64; 2] = [10071, 10164];

/// Bus over NATS 2.9 or later, with a store of claims in a bucket of JetStream.
///
/// Each node has two connections: one for the messages of topics, and one that they cannot
/// delay for everything else. Each publishes a probe to the other every 3 s. If two probes of
/// one are missing, both are opened again after a random time: up to 5 s at first, and later up
/// to 30 s. Servers that belong to one NATS cluster route the messages; see NATS's
/// documentation.
///
/// A user of the server needs permissions for `getty.<namespace>.>` and `_INBOX.>`, and for
/// claims `$KV.<bucket>.>`, `$JS.API.STREAM.CREATE.KV_<bucket>` and
/// `$JS.API.STREAM.MSG.GET.KV_<bucket>`.
///
/// The connection for topics uses a codec of this crate. It needs less CPU time than the client
/// library. A topic of a node takes 421 bytes, including 154 for
/// [`Topics`](getty_layers::Topics). A frame that follows another one within a millisecond
/// waits until that time is over, so that both share a write. A bus
/// [with options](Self::with_options), or whose servers require TLS, uses the client library
/// instead. It holds some 5 KB for each subscription. A node with more than some 10,000 topics
/// should then distribute them over [buckets](crate::TopicsBuilder::with_buckets). In 1,024
/// buckets, 100,000 topics take 36 MiB.
///
/// ```no_run
/// use getty_cluster::{Cluster, bus::Nats};
///
/// # async fn check() -> Result<(), getty_cluster::bus::UrlError> {
/// let cluster = Cluster::of("chat").over(Nats::new("nats://127.0.0.1:4222")?).start();
/// cluster.up().await;
/// # Ok(())
/// # }
/// ```
pub struct Nats(Arc<Shared>);

struct Shared {
    servers: Vec<ServerAddr>,
    options: Mutex<Box<dyn Fn() -> ConnectOptions + Send>>,
    /// `true` if the application has set options of the client library.
    has_options: bool,
    bucket: String,
    replicas: usize,
    parts: Parts,
    /// Longest frame that the server takes, in bytes.
    max_frame: AtomicUsize,
    /// `true` once all subscriptions of the current connections are in effect.
    has_settled: AtomicBool,
    /// Client for control frames and claims, while there is a connection.
    client: Mutex<Option<Client>>,
}

/// Reason for the end of a connection.
type Failure = BoxError;

impl Nats {
    /// Creates a new bus for the servers at `servers`: one or more URLs with commas between them.
    /// It connects when the cluster starts, to one of them. If that one fails, it connects to
    /// another one.
    ///
    /// A URL with `tls` uses TLS. It may have a user and a password, or a token, as in
    /// `tls://user:password@nats.example:4222`. They are used for all servers.
    ///
    /// # Errors
    ///
    /// A URL is invalid. The error does not contain it.
    pub fn new(servers: &str) -> Result<Self, UrlError> {
        Ok(Self(Arc::new(Shared {
            servers: parse(servers).map_err(UrlError::invalid)?,
            options: Mutex::new(Box::new(ConnectOptions::new)),
            has_options: false,
            bucket: "getty_claims".to_owned(),
            replicas: 1,
            parts: Parts::new(OutgoingLimits::default()),
            max_frame: AtomicUsize::new(MAX_FRAME),
            has_settled: AtomicBool::new(false),
            client: Mutex::new(None),
        })))
    }

    /// Sets a function that returns the options of each connection, for certificates and for
    /// credentials that a URL cannot have. The bus sets the options for names, probes, queues and
    /// reconnects itself. Both connections then use the client library; see [`Nats`].
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    #[must_use]
    pub fn with_options(mut self, options: impl Fn() -> ConnectOptions + Send + 'static) -> Self {
        let shared = self.shared();
        shared.options = Mutex::new(Box::new(options));
        shared.has_options = true;
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
        self.shared().parts = Parts::new(limits);
        self
    }

    fn shared(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.0).expect("settings come before the start of the cluster")
    }
}

/// Reads URLs with commas between them.
fn parse(urls: &str) -> Result<Vec<ServerAddr>, BoxError> {
    let server = |url: &str| {
        let server: ServerAddr = url.trim().parse()?;
        if !matches!(server.scheme(), "nats" | "tls") {
            return Err("a URL of NATS begins with nats: or tls:".into());
        }
        if server.host().is_empty() {
            return Err("a URL has no host".into());
        }
        Ok(server)
    };
    urls.split(',').map(server).collect()
}

/// Returns the user and the password, or a token alone, of the first URL that has some. The
/// client library does not use them.
fn credentials(servers: &[ServerAddr]) -> Option<(String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    servers.iter().find_map(|server| {
        let user = decoded(server.username()?);
        Some((user, server.password().map(decoded)))
    })
}

impl Shared {
    async fn connect(&self, name: &str) -> Result<(Client, mpsc::Receiver<NatsEvent>), Failure> {
        let (events, received) = mpsc::channel(64);
        let servers = &self.servers;
        let options = lock(&self.options)();
        let options = match credentials(servers) {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        };
        // Also for other servers of the NATS cluster, whose addresses the first one sends.
        let options = if servers.iter().all(ServerAddr::tls_required) {
            options.require_tls(true)
        } else {
            options
        };
        let options = options
            .name(name)
            .no_echo()
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .ping_interval(Duration::from_secs(5))
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            // One attempt for each server. This bus opens a new connection itself.
            .max_reconnects(servers.len())
            .event_callback(move |event| {
                // If the channel is full, the probes notice a lost connection.
                let _ = events.try_send(event);
                std::future::ready(())
            });
        // A server that does not answer must not keep the others from being tried.
        let time = TIMEOUT * u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let client = timeout(time, options.connect(servers)).await??;
        Ok((client, received))
    }

    /// Works until a connection fails, and returns the reason.
    async fn connected(&self, sink: &Arc<dyn Sink>) -> Result<(), Failure> {
        let wire = self.connect_wire().await?;
        self.parts.uses_writes.store(wire.is_some(), Relaxed);
        if let Some(wire) = wire {
            return self.connected_by_wire(wire, &**sink).await;
        }
        let (data, data_events) = self.connect("getty data").await?;
        let (control, control_events) = self.connect("getty control").await?;
        let max = data.server_info().max_payload.min(MAX_FRAME);
        self.max_frame.store(max, Relaxed);
        let sink = &**sink;
        sink.event(Event::Connected);
        // Frames are taken from now on, but their subscribers may not have settled.
        self.parts.open();
        tokio::try_join!(
            self.work(&data, &control, sink),
            publish(&self.parts.data, &data),
            publish(&self.parts.control, &control),
            watch(data_events, sink),
            watch(control_events, sink),
        )?;
        Ok(())
    }

    /// Opens a connection for the messages of topics without the client library. Returns `None` if
    /// it needs more than [`Wire`] has.
    async fn connect_wire(&self) -> Result<Option<Wire>, Failure> {
        let mut servers = self.servers.clone();
        if self.has_options || servers.iter().any(|server| server.scheme() != "nats") {
            return Ok(None);
        }
        let credentials = credentials(&servers);
        fastrand::shuffle(&mut servers);
        let mut result = Err("there is no server".into());
        for server in servers {
            let connect = Wire::connect(&server, credentials.clone());
            result = match timeout(TIMEOUT, connect).await {
                Ok(result) => result,
                Err(error) => Err(error.into()),
            };
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Works until a connection fails, and returns the reason.
    async fn connected_by_wire(&self, wire: Wire, sink: &dyn Sink) -> Result<(), Failure> {
        let (control, control_events) = self.connect("getty control").await?;
        let max = control.server_info().max_payload.min(MAX_FRAME);
        self.max_frame.store(max.min(wire.max_payload), Relaxed);
        sink.event(Event::Connected);
        // Frames are taken from now on, but their subscribers may not have settled.
        self.parts.open();
        let (wanted, of_control) = self.parts.control.wanted.restart();
        let subjects: Vec<_> = wanted.iter().map(|it| it.subject.clone()).collect();
        let probe = probe_prefix(&subjects);
        let on_data = format!("{probe}.data");
        let Parts { data, writes, .. } = &self.parts;
        let work = Work::new(writes, &data.wanted, &on_data, &self.max_frame);
        let set_up = async {
            let on_control = control.subscribe(format!("{probe}.control")).await?;
            let mut reader = Reader::new(&control, &probe, of_control);
            for subject in subjects {
                reader.subscribe(subject).await?;
            }
            work.set_up().await;
            let has_bucket = self.create_bucket(&control).await.is_ok();
            Ok::<_, Failure>((on_control, reader, has_bucket))
        };
        let control_part = async {
            let (on_control, reader, has_bucket) = timeout(SET_UP_TIME, set_up).await??;
            *lock(&self.client) = Some(control.clone());
            let settled = || {
                self.has_settled.store(true, Relaxed);
                sink.event(Event::Settled);
            };
            let probes = Probes {
                on_data: Box::pin(futures_util::stream::repeat(()).then(|()| work.probed())),
                on_control: Box::pin(on_control.map(|_| ())),
                probe: probe.clone(),
            };
            let publish = |to: String| {
                work.probe(&to);
                futures_util::future::ok(())
            };
            tokio::try_join!(
                reader.run(&self.parts.control.wanted, sink),
                probes.run(publish, &control, settled, &self.parts),
                self.create_bucket_later(&control, has_bucket),
                work.follow().map(Ok),
            )
        };
        tokio::try_join!(
            control_part,
            work.run(wire, sink),
            publish(&self.parts.control, &control),
            watch(control_events, sink),
        )?;
        Ok(())
    }

    /// Subscribes, and then reads and probes.
    async fn work(&self, data: &Client, control: &Client, sink: &dyn Sink) -> Result<(), Failure> {
        let set_up = async {
            let (wanted, of_control) = self.parts.control.wanted.restart();
            let subjects: Vec<_> = wanted.iter().map(|it| it.subject.clone()).collect();
            let probe = probe_prefix(&subjects);
            let on_data = data.subscribe(format!("{probe}.data")).await?;
            let on_control = control.subscribe(format!("{probe}.control")).await?;
            let probes = Probes {
                on_data: Box::pin(on_data.map(|_| ())),
                on_control: Box::pin(on_control.map(|_| ())),
                probe: probe.clone(),
            };
            let mut control_reader = Reader::new(control, &probe, of_control);
            for Subscription { subject, .. } in wanted {
                control_reader.subscribe(subject).await?;
            }
            let (wanted, of_data) = self.parts.data.wanted.restart();
            let mut data_reader = Reader::new(data, &probe, of_data);
            for Subscription { subject, .. } in wanted {
                data_reader.subscribe(subject).await?;
            }
            let has_bucket = self.create_bucket(control).await.is_ok();
            Ok::<_, Failure>((probes, control_reader, data_reader, has_bucket))
        };
        let (probes, control_reader, data_reader, has_bucket) =
            timeout(SET_UP_TIME, set_up).await??;
        *lock(&self.client) = Some(control.clone());
        let settled = || {
            self.has_settled.store(true, Relaxed);
            sink.event(Event::Settled);
        };
        tokio::try_join!(
            control_reader.run(&self.parts.control.wanted, sink),
            data_reader.run(&self.parts.data.wanted, sink),
            probes.run(
                |to| data.publish(to, Bytes::new()),
                control,
                settled,
                &self.parts
            ),
            self.create_bucket_later(control, has_bucket),
        )?;
        Ok(())
    }

    /// Creates the bucket of claims if it does not exist: a stream with the last message of each
    /// subject.
    async fn create_bucket(&self, client: &Client) -> Result<(), StoreError> {
        let name = format!("KV_{}", self.bucket);
        let config = json!({
            "name": name,
            "subjects": [format!("$KV.{}.>", self.bucket)],
            "max_msgs_per_subject": 1,
            "max_age": EXPIRY,
            "num_replicas": self.replicas,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
        });
        let subject = format!("$JS.API.STREAM.CREATE.{name}");
        let answer = client.request(subject, config.to_string().into()).await;
        match Answer::read(answer)? {
            Answer::Ok(_) | Answer::Error(STREAM_EXISTS, _) => Ok(()),
            Answer::Error(_, description) => Err(StoreError::new(description)),
        }
    }

    /// Creates the bucket once JetStream is ready, if it was not. Then it never returns.
    async fn create_bucket_later(&self, client: &Client, exists: bool) -> Result<(), Failure> {
        if !exists {
            while let Err(error) = self.create_bucket(client).await {
                tracing::warn!(
                    target: "getty::cluster",
                    bucket = self.bucket,
                    cause = std::error::Error::source(&error),
                    "there is no store of claims: is JetStream enabled?",
                );
                sleep(CREATE_PAUSE).await;
            }
        }
        std::future::pending().await
    }

    fn client(&self) -> Result<Client, StoreError> {
        let client = lock(&self.client).clone();
        client.ok_or_else(|| StoreError::new("NATS is not connected"))
    }

    /// Appends a message to the stream, if the last one of its subject has this sequence. Returns
    /// the new sequence, or `None` if it has another.
    async fn append(
        &self,
        key: &Subject,
        was: u64,
        mut headers: HeaderMap,
        value: Bytes,
    ) -> Result<Option<u64>, StoreError> {
        headers.insert("Nats-Expected-Last-Subject-Sequence", was.to_string());
        let client = self.client()?;
        let subject = format!("$KV.{}.{key}", self.bucket);
        let answer = client.request_with_headers(subject, headers, value).await;
        match Answer::read(answer)? {
            Answer::Ok(answer) => match answer["seq"].as_u64() {
                Some(sequence) => Ok(Some(sequence)),
                None => Err(StoreError::new("the answer has no sequence")),
            },
            Answer::Error(code, _) if WRONG_SEQUENCE.contains(&code) => Ok(None),
            Answer::Error(_, description) => Err(StoreError::new(description)),
        }
    }
}

/// Answer of JetStream.
enum Answer {
    Ok(Value),
    /// An error with its code and description.
    Error(u64, String),
}

impl Answer {
    fn read(answer: Result<Message, async_nats::RequestError>) -> Result<Self, StoreError> {
        let message = answer.map_err(StoreError::new)?;
        let answer: Value = serde_json::from_slice(&message.payload).map_err(StoreError::new)?;
        let Some(error) = answer.get("error") else {
            return Ok(Self::Ok(answer));
        };
        let code = error["err_code"].as_u64().unwrap_or_default();
        let description = error["description"].as_str().unwrap_or("unknown error");
        Ok(Self::Error(
            code,
            format!("JetStream: {description} ({code})"),
        ))
    }
}

/// Reads the entry from the answer to a request for the last message of a subject.
fn entry(answer: &Value) -> Option<Entry> {
    let message = &answer["message"];
    let bytes = |field: &str| match message.get(field) {
        Some(value) => BASE64_STANDARD.decode(value.as_str()?).ok(),
        None => Some(Vec::new()),
    };
    let revision = Revision(message["seq"].as_u64()?);
    let (headers, value) = (bytes("hdrs")?, bytes("data")?);
    // A removed entry is a message without a value, with a header.
    let is_removed = String::from_utf8_lossy(&headers).contains("KV-Operation") || value.is_empty();
    let value = (!is_removed).then(|| value.into());
    Some(Entry { revision, value })
}

/// Probes from each connection to the other.
struct Probes<'a> {
    on_data: BoxStream<'a, ()>,
    on_control: BoxStream<'a, ()>,
    probe: String,
}

impl Probes<'_> {
    /// Publishes probes. The first that arrives comes after all subscriptions of its connection, so
    /// both together show that these are in effect.
    async fn run<P>(
        mut self,
        publish_on_data: impl Fn(String) -> P,
        control: &Client,
        settled: impl Fn(),
        parts: &Parts,
    ) -> Result<(), Failure>
    where
        P: Future<Output = Result<(), PublishErrorOfNats>>,
    {
        let mut ticks = interval(PROBE);
        // After the process was stopped, the answers of a living server come first.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut of_data, mut of_control) = (Probed::default(), Probed::default());
        let mut is_settled = false;
        let mut asked = Instant::now();
        loop {
            tokio::select! {
                biased;
                probe = self.on_control.next() => {
                    probe.ok_or(ENDED)?;
                    parts.probed(asked.elapsed());
                    of_data.answered();
                }
                probe = self.on_data.next() => {
                    probe.ok_or(ENDED)?;
                    of_control.answered();
                }
                _ = ticks.tick() => {
                    of_data.asked()?;
                    of_control.asked()?;
                    asked = Instant::now();
                    let publish = async {
                        publish_on_data(format!("{}.control", self.probe)).await?;
                        control.publish(format!("{}.data", self.probe), Bytes::new()).await
                    };
                    // The client waits while its queue is full, and no tick comes meanwhile.
                    let max = of_data.max_missing().max(of_control.max_missing());
                    timeout(PROBE * max, publish).await.map_err(|_| UNANSWERED)??;
                }
            }
            if !is_settled && of_data.is_answered && of_control.is_answered {
                is_settled = true;
                settled();
            }
        }
    }
}

/// Probes of one connection.
#[derive(Default)]
struct Probed {
    missing: u32,
    is_answered: bool,
}

impl Probed {
    fn answered(&mut self) {
        self.missing = 0;
        self.is_answered = true;
    }

    fn asked(&mut self) -> Result<(), &'static str> {
        if self.missing >= self.max_missing() {
            return Err(UNANSWERED);
        }
        self.missing += 1;
        Ok(())
    }

    const fn max_missing(&self) -> u32 {
        if self.is_answered {
            MISSING_PROBES
        } else {
            MISSING_FIRST_PROBES
        }
    }
}

const UNANSWERED: &str = "probes were not answered";

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
    /// Subject without a subscriber.
    unheard: String,
    /// Number of the last change of the wanted subscriptions that the client has.
    number: u64,
}

impl Reader {
    fn new(client: &Client, probe: &str, number: u64) -> Self {
        Self {
            client: client.clone(),
            messages: SelectAll::new(),
            ends: HashMap::new(),
            unheard: format!("{probe}.unheard"),
            number,
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

    /// Subscribes and unsubscribes until nothing is left to change.
    async fn follow(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        loop {
            let batch = wanted.take();
            for Subscription { subject, .. } in &batch.remove {
                self.ends.remove(subject);
            }
            for Subscription { subject, .. } in batch.add {
                self.subscribe(subject).await?;
            }
            if let Some(number) = batch.number {
                self.number = number;
                return Ok(());
            }
        }
    }

    /// Passes messages to `sink` and follows the wanted subscriptions.
    async fn run(mut self, wanted: &Wanted, sink: &dyn Sink) -> Result<(), Failure> {
        let mut confirmed = None;
        let mut confirmation = std::pin::pin!(futures_util::future::Fuse::terminated());
        loop {
            if confirmed != Some(self.number) && confirmation.is_terminated() {
                let is_handled = is_handled(self.client.clone(), self.unheard.clone());
                let number = self.number;
                confirmation.set(is_handled.map(move |ok| (number, ok)).fuse());
            }
            tokio::select! {
                // It is `None` while there is no subscription.
                Some((subject, frame)) = self.messages.next() => {
                    sink.deliver(subject.as_str(), frame);
                }
                () = wanted.changed() => self.follow(wanted).await?,
                (number, is_handled) = &mut confirmation => {
                    if is_handled {
                        confirmed = Some(number);
                        wanted.confirm(number);
                    }
                }
            }
        }
    }
}

/// Waits until the server has handled all that this client has sent: it answers that
/// `unheard` has no subscriber. Returns `false` if it has not answered.
async fn is_handled(client: Client, unheard: String) -> bool {
    match client.request(unheard, Bytes::new()).await {
        Ok(_) => true,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => true,
        Err(_) => {
            sleep(TIMEOUT).await;
            false
        }
    }
}

/// Publishes the frames of a queue.
async fn publish(part: &Part, client: &Client) -> Result<(), Failure> {
    loop {
        let (to, frame) = part.outgoing.pop().await;
        match client.publish(to.to_string(), frame).await {
            // The server has lowered its limit. Members see a gap.
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                tracing::warn!(target: "getty::cluster", %to, "a frame is too long for NATS");
            }
            result => result?,
        }
    }
}

impl Bus for Nats {
    fn limits(&self) -> Limits {
        Limits { frame: MAX_FRAME }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if frame.len() > self.0.max_frame.load(Relaxed) {
            return Err(PublishError::TooLarge);
        }
        self.0.parts.publish(to, frame)
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        self.0.parts.subscribe(changes);
    }

    fn subscribed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.parts.subscribed())
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let result = self.0.connected(&sink).await;
                lock(&self.0.client).take();
                let had_settled = self.0.has_settled.swap(false, Relaxed);
                attempt = if had_settled { 0 } else { attempt + 1 };
                let parts = &self.0.parts;
                parts
                    .wait_to_reconnect("NATS", result, &*sink, attempt)
                    .await;
            }
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self(Arc::clone(&self.0))))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        // Its answer shows that the server has taken what was sent before. The end of the process
        // could otherwise reset the connection, and what the server has not read is lost.
        Box::pin(self.0.parts.handled())
    }

    fn kind(&self) -> &'static str {
        "nats"
    }

    fn stats(&self) -> BusStats {
        self.0.parts.stats()
    }
}

impl Store for Nats {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let bucket = &self.0.bucket;
        // From the leader: another server might return an older value.
        let subject = format!("$JS.API.STREAM.MSG.GET.KV_{bucket}");
        let request = json!({ "last_by_subj": format!("$KV.{bucket}.{key}") });
        Box::pin(async move {
            let client = self.0.client()?;
            let answer = client.request(subject, request.to_string().into()).await;
            match Answer::read(answer)? {
                Answer::Ok(answer) => match entry(&answer) {
                    Some(entry) => Ok(Some(entry)),
                    None => Err(StoreError::new("the answer has no message")),
                },
                Answer::Error(NO_MESSAGE, _) => Ok(None),
                Answer::Error(_, description) => Err(StoreError::new(description)),
            }
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
            let was = was.map_or(0, |was| was.0);
            let put = self.0.append(&key, was, HeaderMap::new(), value).await?;
            put.map(Revision).ok_or(PutError::Conflict)
        })
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert("KV-Operation", "DEL");
            let removed = self.0.append(&key, was.0, headers, Bytes::new()).await?;
            Ok(removed.is_some())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_commas_between_them_and_credentials() {
        let all = parse("nats://a.example, tls://b.example:4223").unwrap();
        let hosts: Vec<_> = all.iter().map(|url| (url.host(), url.port())).collect();
        assert_eq!(hosts, [("a.example", 4222), ("b.example", 4223)]);
        assert_eq!(credentials(&all), None);
        let of = |url| credentials(&parse(url).unwrap());
        let (user, password) = ("ada".to_owned(), Some("p@ss".to_owned()));
        assert_eq!(of("nats://a,nats://ada:p%40ss@b"), Some((user, password)));
        assert_eq!(of("nats://token@a"), Some(("token".to_owned(), None)));
        for bad in [
            "nats://a:port",
            "ws://a",
            "http://a",
            "nats://a,,nats://b",
            "",
        ] {
            assert!(Nats::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entry_is_read_from_an_answer_and_a_removed_one_keeps_its_revision() {
        let read = |message: Value| entry(&json!({ "message": message }));
        let found = read(json!({ "seq": 7, "data": "YWRh" }));
        let expected = Entry {
            revision: Revision(7),
            value: Some(Bytes::from_static(b"ada")),
        };
        assert_eq!(found, Some(expected));
        let headers = BASE64_STANDARD.encode("NATS/1.0\r\nKV-Operation: DEL\r\n\r\n");
        let removed = Entry {
            revision: Revision(8),
            value: None,
        };
        assert_eq!(read(json!({ "seq": 8, "hdrs": headers })), Some(removed));
        assert_eq!(read(json!({ "data": "YWRh" })), None);
        assert_eq!(read(json!({ "seq": 7, "data": "no base 64!" })), None);
        assert_eq!(entry(&Value::Null), None);
    }

    #[test]
    fn connection_is_lost_when_two_probes_are_missing() {
        let mut probed = Probed::default();
        for _ in 0..MISSING_FIRST_PROBES {
            probed.asked().unwrap();
        }
        probed.answered();
        probed.asked().unwrap();
        probed.asked().unwrap();
        assert!(probed.asked().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn probe_that_the_client_does_not_take_is_not_awaited_for_ever() {
        let options = ConnectOptions::new().retry_on_initial_connect();
        let control = options.connect("nats://127.0.0.1:9").await.unwrap();
        let probes = Probes {
            on_data: Box::pin(futures_util::stream::pending()),
            on_control: Box::pin(futures_util::stream::pending()),
            probe: "getty.app.p.1".to_owned(),
        };
        let parts = Parts::new(OutgoingLimits::default());
        let run = probes.run(|_| std::future::pending(), &control, || (), &parts);
        let ended = timeout(SET_UP_TIME, run).await.expect("it is bounded");
        assert_eq!(ended.unwrap_err().to_string(), UNANSWERED);
    }
}
