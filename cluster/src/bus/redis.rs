//! Bus and store over Redis or Valkey.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError,
    Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tower::BoxError;

use super::{
    Bus, Entry, Event, Limits, OutgoingLimits, PublishError, PutError, Revision, Sink, Store,
    StoreError,
    parts::{Part, Parts},
    wanted::{BATCH, Subscription},
};
use crate::{Subject, lock, random_id};

/// Time in which a connection must open, and a command must be answered.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two probes of a connection.
const PROBE: Duration = Duration::from_secs(3);
/// Maximum number of frames that are published together.
const PIPELINE: usize = 128;
/// The command that publishes a frame.
const PUBLISH: &str = "PUBLISH";
/// Longest frame, in bytes. Redis itself permits 512 MiB.
const MAX_FRAME: usize = 1024 * 1024;
/// Time after which an entry of the store expires, in milliseconds: 48 h.
const EXPIRY: u64 = 48 * 60 * 60 * 1000;

/// Sets an entry if its revision is the expected one. An entry is a hash of revision and value.
const PUT_IF: &str = "\
if (redis.call('HGET', KEYS[1], 'r') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'v', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1";
/// Removes an entry if its revision is the expected one.
const REMOVE_IF: &str = "\
if redis.call('HGET', KEYS[1], 'r') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// Bus and store over Redis 6 or later, or Valkey.
///
/// Each node has two connections: one for the messages of topics, and one that they cannot
/// delay for everything else. A probe every 3 s, answered within 3 s, finds a connection that
/// is lost without an error. Both connections are then opened again after a random time: up to
/// 5 s at first, and later up to 30 s.
///
/// Redis delivers at most once. It returns a node's own messages to it, which costs a receive
/// for each. A single server uses one core. Claims are kept as hashes for 48 h, and are as
/// durable as the server's persistence.
///
/// ```no_run
/// use getty_cluster::{Cluster, bus::Redis};
///
/// # async fn check() -> Result<(), getty_cluster::bus::RedisUrlError> {
/// let cluster = Cluster::of("chat").over(Redis::new("redis://127.0.0.1:6379")?).start();
/// cluster.up().await;
/// # Ok(())
/// # }
/// ```
///
/// A URL with `rediss` uses TLS. It may have a user and a password.
pub struct Redis(Arc<Shared>);

struct Shared {
    client: Client,
    parts: Parts,
    /// Connection for claims, while there is one.
    store: Mutex<Option<MultiplexedConnection>>,
}

/// Error of a URL.
#[derive(Debug)]
pub struct RedisUrlError(RedisError);

impl fmt::Display for RedisUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URL of Redis is invalid")
    }
}

impl std::error::Error for RedisUrlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Redis {
    /// Creates a new bus for the server at `url`, such as `redis://127.0.0.1:6379` or
    /// `rediss://user:password@redis.example:6380`. It connects when the cluster starts.
    ///
    /// # Errors
    ///
    /// The URL is invalid.
    pub fn new(url: &str) -> Result<Self, RedisUrlError> {
        Self::with_limits(url, OutgoingLimits::default())
    }

    /// Creates a new bus with other limits of its queues; see [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// The URL is invalid.
    pub fn with_limits(url: &str, limits: OutgoingLimits) -> Result<Self, RedisUrlError> {
        use redis::IntoConnectionInfo;
        let info = url.into_connection_info().map_err(RedisUrlError)?;
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings);
        Ok(Self(Arc::new(Shared {
            client: Client::open(info).map_err(RedisUrlError)?,
            parts: Parts::new(limits),
            store: Mutex::new(None),
        })))
    }
}

impl Shared {
    /// Works until a connection fails, and returns its error.
    async fn connected(&self, sink: &Arc<dyn Sink>) -> Result<(), RedisError> {
        let lost = Arc::new(Notify::new());
        let (mut data, mut control) =
            try_join(self.connect(sink, &lost), self.connect(sink, &lost)).await?;
        sink.event(Event::Connected);
        // Frames are taken from now on, but their subscribers may not have settled.
        let Parts {
            data: of_data,
            control: of_control,
            ..
        } = &self.parts;
        self.parts.open();
        for (part, connection) in [(of_control, &mut control), (of_data, &mut data)] {
            let (subjects, number) = part.wanted.restart();
            for batch in subjects.chunks(BATCH) {
                connection.subscribe(names(batch)).await?;
            }
            part.wanted.confirm(number);
        }
        *lock(&self.store) = Some(control.clone());
        sink.event(Event::Settled);
        let work = try_join(of_data.work(data), of_control.work(control));
        tokio::select! {
            result = work => result.map(|_| ()),
            () = lost.notified() => Err((ErrorKind::Io, "the server has ended a connection").into()),
        }
    }

    /// Opens a connection. It notifies `lost` at its end.
    async fn connect(
        &self,
        sink: &Arc<dyn Sink>,
        lost: &Arc<Notify>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let (sink, lost) = (Arc::clone(sink), Arc::clone(lost));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_push_sender(move |push: PushInfo| {
                match push.kind {
                    PushKind::Message => deliver(&*sink, push),
                    PushKind::Disconnection => lost.notify_one(),
                    _ => {}
                }
                Ok::<_, std::convert::Infallible>(())
            });
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Calls `command` with the connection for claims.
    async fn with_store<T, F>(
        &self,
        command: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = lock(&self.store).clone();
        let connection = connection.ok_or_else(|| StoreError::new("Redis is not connected"))?;
        command(connection).await.map_err(StoreError::new)
    }
}

impl Part {
    /// Publishes, subscribes and probes until one of them fails.
    async fn work(&self, connection: MultiplexedConnection) -> Result<(), RedisError> {
        tokio::try_join!(
            self.publish(connection.clone()),
            self.follow(connection.clone()),
            probe(connection),
        )?;
        Ok(())
    }

    async fn publish(&self, mut connection: MultiplexedConnection) -> Result<(), RedisError> {
        let mut frames = Vec::with_capacity(PIPELINE);
        loop {
            self.outgoing.pop_many(PIPELINE, &mut frames).await;
            let mut pipeline = redis::Pipeline::with_capacity(frames.len());
            for (to, frame) in frames.drain(..) {
                let to = to.as_str();
                let mut publish = Cmd::with_capacity(3, PUBLISH.len() + to.len() + frame.len());
                publish.arg(PUBLISH).arg(to).arg(&frame[..]);
                pipeline.add_command(publish).ignore();
            }
            let () = pipeline.query_async(&mut connection).await?;
        }
    }

    async fn follow(&self, mut connection: MultiplexedConnection) -> Result<(), RedisError> {
        loop {
            let batch = self.wanted.take();
            if !batch.add.is_empty() {
                connection.subscribe(names(&batch.add)).await?;
            }
            if !batch.remove.is_empty() {
                connection.unsubscribe(names(&batch.remove)).await?;
            }
            if let Some(number) = batch.number {
                self.wanted.confirm(number);
                self.wanted.changed().await;
            }
        }
    }
}

/// Finds a connection that is lost without an error.
async fn probe(mut connection: MultiplexedConnection) -> Result<(), RedisError> {
    loop {
        sleep(PROBE).await;
        let ping = redis::cmd("PING");
        let answered = timeout(TIMEOUT, ping.query_async::<()>(&mut connection)).await;
        answered.unwrap_or_else(|_| {
            Err(RedisError::from((
                ErrorKind::Io,
                "a probe was not answered",
            )))
        })?;
    }
}

fn names(subscriptions: &[Subscription]) -> Vec<&str> {
    let subjects = subscriptions.iter().map(|it| it.subject.as_str());
    subjects.collect()
}

fn deliver(sink: &dyn Sink, push: PushInfo) {
    let mut data = push.data.into_iter();
    if let (Some(Value::BulkString(subject)), Some(Value::BulkString(frame))) =
        (data.next(), data.next())
        && let Ok(subject) = std::str::from_utf8(&subject)
    {
        sink.deliver(subject, frame.into());
    }
}

impl Bus for Redis {
    fn limits(&self) -> Limits {
        Limits { frame: MAX_FRAME }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if frame.len() > MAX_FRAME {
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
                let had_settled = lock(&self.0.store).take().is_some();
                attempt = if had_settled { 0 } else { attempt + 1 };
                let parts = &self.0.parts;
                parts
                    .wait_to_reconnect("Redis", result.map_err(Into::into), &*sink, attempt)
                    .await;
            }
        })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self(Arc::clone(&self.0))))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        // A frame is handled once the server has answered its pipeline.
        Box::pin(self.0.parts.drained())
    }
}

impl Store for Redis {
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let mut command = redis::cmd("HMGET");
        command.arg(key.as_str()).arg("r").arg("v");
        Box::pin(self.0.with_store(|mut connection| async move {
            let (revision, value): (Option<u64>, Option<Vec<u8>>) =
                command.query_async(&mut connection).await?;
            Ok(revision.zip(value).map(|(revision, value)| Entry {
                revision: Revision(revision),
                value: Some(value.into()),
            }))
        }))
    }

    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        let revision = random_id();
        let mut command = redis::cmd("EVAL");
        command.arg(PUT_IF).arg(1).arg(key.as_str());
        command.arg(was.map_or_else(String::new, |was| was.0.to_string()));
        command.arg(revision).arg(&value[..]).arg(EXPIRY);
        Box::pin(async move {
            let put = self.0.with_store(|mut connection| async move {
                command.query_async::<bool>(&mut connection).await
            });
            if put.await? {
                Ok(Revision(revision))
            } else {
                Err(PutError::Conflict)
            }
        })
    }

    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut command = redis::cmd("EVAL");
        command.arg(REMOVE_IF).arg(1).arg(key.as_str()).arg(was.0);
        Box::pin(self.0.with_store(|mut connection| async move {
            command.query_async::<bool>(&mut connection).await
        }))
    }
}

impl fmt::Debug for Redis {
    // The client's own output may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
