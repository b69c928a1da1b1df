//! Bus and store over Redis or Valkey.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisError, TlsCertificates, Value,
    aio::MultiplexedConnection,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tower::BoxError;

use super::{
    Bus, BusStats, Entry, Event, Limits, OutgoingLimits, PublishError, PutError, Revision, Sink,
    Store, StoreError, UrlError,
    parts::{Part, Parts},
    wanted::{BATCH, Subscription},
};
use crate::{Subject, lock, random_id};

/// Time in which a connection must open, and a command must be answered.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time in which the server must take all subscriptions of a new connection.
const SET_UP_TIME: Duration = Duration::from_secs(60);
/// Time between two probes of a connection.
const PROBE: Duration = Duration::from_secs(3);
/// Part of the time in which a probe is awaited; see [`answered`].
const PROBE_PART: Duration = Duration::from_millis(500);
/// Number of parts in which something must arrive while a probe is awaited.
const QUIET_PARTS: u32 = 6;
/// Number of parts in which a probe must be answered.
const ANSWER_PARTS: u32 = 30;
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
/// delay for everything else. A probe every 3 s finds a connection that is lost without an
/// error: nothing arrives within 3 s, or messages alone do for 15 s. Both connections are then
/// opened again after a random time: up to 5 s at first, and later up to 30 s.
///
/// It uses one server, whose URL does not change. Redis Cluster and Sentinel are not supported.
/// Redis delivers at most once. It returns a node's own messages to it, which costs a receive
/// for each. A single server uses one core. Claims are kept as hashes for 48 h, and are as
/// durable as the server's persistence.
///
/// ```no_run
/// use getty_cluster::{Cluster, bus::Redis};
///
/// # async fn check() -> Result<(), getty_cluster::bus::UrlError> {
/// let cluster = Cluster::of("chat").over(Redis::new("redis://127.0.0.1:6379")?).start();
/// cluster.up().await;
/// # Ok(())
/// # }
/// ```
///
/// A URL with `rediss` uses TLS. It may have a user and a password. `valkey` and `valkeys` are
/// the same as `redis` and `rediss`.
///
/// A bus with TLS needs a default provider of cryptography in rustls. It installs that of ring
/// if the process has none.
pub struct Redis(Arc<Shared>);

struct Shared {
    info: ConnectionInfo,
    certificates: TlsCertificates,
    client: Client,
    parts: Parts,
    /// Connection for claims, while there is one.
    store: Mutex<Option<MultiplexedConnection>>,
}

impl Redis {
    /// Creates a new bus for the server at `url`, such as `redis://127.0.0.1:6379` or
    /// `rediss://user:password@redis.example:6380`. It connects when the cluster starts.
    ///
    /// # Errors
    ///
    /// The URL is invalid. The error does not contain it.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let info = url.into_connection_info().map_err(UrlError::invalid)?;
        if let ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } = info.addr()
            && host.contains(',')
        {
            return Err(UrlError::invalid("a bus over Redis has one server"));
        }
        if let ConnectionAddr::TcpTls { .. } = info.addr() {
            // An error means that there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let settings = info.redis_settings().clone();
        let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
        let client = Client::open(info.clone()).map_err(UrlError::invalid)?;
        Ok(Self(Arc::new(Shared {
            info,
            certificates: TlsCertificates {
                client_tls: None,
                root_cert: None,
            },
            client,
            parts: Parts::new(OutgoingLimits::default()),
            store: Mutex::new(None),
        })))
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

    /// Sets the certificate of the authority that has signed that of the server, in PEM. The
    /// default is the authorities that the operating system trusts.
    ///
    /// # Errors
    ///
    /// The certificate is invalid, or the URL has no TLS.
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    pub fn with_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, UrlError> {
        let pem = pem.into();
        check_certificates(&pem)?;
        self.shared().certificates.root_cert = Some(pem);
        self.reopen()
    }

    /// Sets the certificate of this client and its key, in PEM, for a server that requires one.
    /// The default is none.
    ///
    /// # Errors
    ///
    /// The certificate or the key is invalid, or the URL has no TLS.
    ///
    /// # Panics
    ///
    /// Panics if the bus is in use.
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Result<Self, UrlError> {
        let client_cert = certificate.into();
        check_certificates(&client_cert)?;
        self.shared().certificates.client_tls = Some(ClientTlsConfig {
            client_cert,
            client_key: key.into(),
        });
        self.reopen()
    }

    /// Uses the certificates from now on.
    fn reopen(mut self) -> Result<Self, UrlError> {
        let Shared {
            info, certificates, ..
        } = &*self.0;
        let client = Client::build_with_tls(info.clone(), certificates.clone());
        self.shared().client = client.map_err(UrlError::invalid)?;
        Ok(self)
    }

    fn shared(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.0).expect("settings come before the start of the cluster")
    }
}

/// Returns an error if there is no certificate. The client would connect to no server.
fn check_certificates(pem: &[u8]) -> Result<(), UrlError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    if certificates.map_err(UrlError::invalid)?.is_empty() {
        return Err(UrlError::invalid("there is no certificate in PEM"));
    }
    Ok(())
}

impl Shared {
    /// Works until a connection fails, and returns its error.
    async fn connected(&self, sink: &Arc<dyn Sink>) -> Result<(), RedisError> {
        let lost = Arc::new(Notify::new());
        let pushes = [(); 2].map(|()| Arc::<AtomicU64>::default());
        let (mut data, mut control) = try_join(
            self.connect(sink, &lost, &pushes[0]),
            self.connect(sink, &lost, &pushes[1]),
        )
        .await?;
        sink.event(Event::Connected);
        // Frames are taken from now on, but their subscribers may not have settled.
        let Parts {
            data: of_data,
            control: of_control,
            ..
        } = &self.parts;
        self.parts.open();
        let subscribe = async {
            for (part, connection) in [(of_control, &mut control), (of_data, &mut data)] {
                let (subjects, number) = part.wanted.restart();
                for batch in subjects.chunks(BATCH) {
                    connection.subscribe(names(batch)).await?;
                }
                part.wanted.confirm(number);
            }
            Ok::<_, RedisError>(())
        };
        timeout(SET_UP_TIME, subscribe)
            .await
            .map_err(|_| no_answer())??;
        *lock(&self.store) = Some(control.clone());
        sink.event(Event::Settled);
        let probed = |time| self.parts.probed(time);
        let work = try_join(
            of_data.work(data, &pushes[0], probed),
            of_control.work(control, &pushes[1], |_| {}),
        );
        tokio::select! {
            result = work => result.map(|_| ()),
            () = lost.notified() => Err((ErrorKind::Io, "the server has ended a connection").into()),
        }
    }

    /// Opens a connection. It counts its messages in `pushes`, and notifies `lost` at its end.
    async fn connect(
        &self,
        sink: &Arc<dyn Sink>,
        lost: &Arc<Notify>,
        pushes: &Arc<AtomicU64>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let (sink, lost, pushes) = (Arc::clone(sink), Arc::clone(lost), Arc::clone(pushes));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            // The probes find a connection without answers. A timeout of the client would also end
            // one that works, after the process was stopped.
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                pushes.fetch_add(1, Relaxed);
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
        let answer = timeout(TIMEOUT, command(connection)).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer()));
        answer.map_err(StoreError::new)
    }
}

impl Part {
    /// Publishes, subscribes and probes until one of them fails.
    async fn work(
        &self,
        connection: MultiplexedConnection,
        pushes: &AtomicU64,
        probed: impl Fn(Duration),
    ) -> Result<(), RedisError> {
        tokio::try_join!(
            self.publish(connection.clone()),
            self.follow(connection.clone()),
            probe(connection, pushes, probed),
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
async fn probe(
    mut connection: MultiplexedConnection,
    pushes: &AtomicU64,
    probed: impl Fn(Duration),
) -> Result<(), RedisError> {
    loop {
        sleep(PROBE).await;
        let asked = Instant::now();
        let ping = redis::cmd("PING");
        answered(ping.query_async(&mut connection), pushes).await?;
        probed(asked.elapsed());
    }
}

/// Awaits the answer of a probe. It comes behind all messages, so these count as a sign of life
/// for some time.
///
/// It counts parts of the time, of which one at most passes while the process is stopped. So
/// the answer of a living server comes first when the process goes on.
async fn answered(
    answer: impl Future<Output = Result<(), RedisError>>,
    pushes: &AtomicU64,
) -> Result<(), RedisError> {
    let mut answer = std::pin::pin!(answer);
    let mut parts = interval(PROBE_PART);
    parts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is over at once.
    parts.tick().await;
    let mut before = pushes.load(Relaxed);
    let mut quiet = 0;
    for _ in 0..=ANSWER_PARTS {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = parts.tick() => {}
        }
        let now = pushes.load(Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        if quiet > QUIET_PARTS {
            break;
        }
    }
    Err(no_answer())
}

fn no_answer() -> RedisError {
    (ErrorKind::Io, "Redis has not answered in time").into()
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

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn stats(&self) -> BusStats {
        self.0.parts.stats()
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

#[cfg(test)]
mod tests {
    use futures_util::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn probe_is_awaited_longer_while_messages_arrive() {
        let pushes = AtomicU64::new(7);
        let time = async |answer: Duration, messages: Duration| {
            let began = Instant::now();
            let answer = async {
                sleep(answer).await;
                Ok(())
            };
            let arrive = async {
                while began.elapsed() < messages {
                    sleep(Duration::from_millis(100)).await;
                    pushes.fetch_add(1, Relaxed);
                }
                pending::<()>().await;
            };
            let result = tokio::select! {
                result = answered(answer, &pushes) => result,
                () = arrive => unreachable!(),
            };
            (result.is_ok(), began.elapsed().as_millis())
        };
        let second = Duration::from_secs(1);
        assert_eq!(time(3 * second, Duration::ZERO).await, (true, 3000));
        let (is_answered, after) = time(60 * second, Duration::ZERO).await;
        assert!(!is_answered && (3000..=3500).contains(&after), "{after}");
        assert_eq!(time(12 * second, 12 * second).await, (true, 12_000));
        let (is_answered, after) = time(60 * second, 6 * second).await;
        assert!(!is_answered && (9000..=10_000).contains(&after), "{after}");
        let (is_answered, after) = time(60 * second, 60 * second).await;
        assert!(
            !is_answered && (15_000..=15_500).contains(&after),
            "{after}"
        );
    }
}
