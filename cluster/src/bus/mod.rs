//! Buses, which carry frames between nodes and store the owners of names.
//!
//! | bus | feature | store of claims |
//! |---|---|---|
//! | [`Memory`] | none | in memory |
//! | `Nats` | `nats` | a bucket of JetStream |
//! | `Redis` | `redis` | hashes in Redis |
//! | [`Sharded`]: several as one | none | the stores of its shards |
//!
//! [`from_url`] chooses one of them by a URL, such as a setting of the program. [`Bus`] and
//! [`Store`] are the traits for another one.

mod memory;
#[cfg(feature = "nats")]
mod nats;
mod outgoing;
#[cfg(any(feature = "nats", feature = "redis"))]
mod parts;
#[cfg(feature = "redis")]
mod redis;
mod sharded;
mod store;
mod url;
#[cfg(any(feature = "nats", feature = "redis"))]
mod wanted;
#[cfg(feature = "nats")]
mod wire;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tower::BoxError;

#[cfg(feature = "nats")]
pub use self::nats::Nats;
#[cfg(feature = "redis")]
pub use self::redis::Redis;
pub use self::{
    memory::{Fault, Memory},
    outgoing::{Outgoing, OutgoingLimits},
    sharded::{Shard, Sharded},
    store::{Entry, PutError, Revision, Store, StoreError},
    url::{UrlError, from_url},
};
use crate::Subject;

/// Carries frames between nodes, at most once.
///
/// Frames of one publisher to one subject must arrive in order, or not at all. A subscriber may
/// receive its own frames and may receive a frame twice: the cluster drops these. It must not
/// receive a frame again after it has unsubscribed from the subject and subscribed to it again.
pub trait Bus: Send + Sync + 'static {
    /// Returns the limits of frames and subjects.
    fn limits(&self) -> Limits;

    /// Queues a frame for all nodes that subscribe to `to`. It must not block and must not retry
    /// anything.
    ///
    /// # Errors
    ///
    /// The error says why the frame was refused. It then reaches no node.
    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError>;

    /// Subscribes to subjects (`true`) and unsubscribes from them (`false`). The bus must keep the
    /// subscriptions over reconnects. It must not block, and a repeated change has no effect.
    fn subscribe(&self, changes: &[(Subject, bool)]);

    /// Connects, reconnects and passes frames and events to `sink` until it is dropped. The cluster
    /// calls it once. An error ends the bus permanently.
    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError>;

    /// Returns the store of claims that belongs to this bus. The default is none.
    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Waits until all subscriptions up to now are in effect on the server. It may return early
    /// while the bus is not connected. The default does not wait.
    fn subscribed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Waits until a subscription is in effect on the server. The default waits until
    /// [all](Self::subscribed) are.
    fn subscribed_to<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, ()> {
        let _ = subject;
        self.subscribed()
    }

    /// Waits until all queued frames were passed to the server, or until the bus is away. The
    /// default does not wait.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Returns the kind of the bus, a label of metrics. The default is `other`.
    fn kind(&self) -> &'static str {
        "other"
    }

    /// Returns the state of the queue to the server. The default is that of an empty one.
    fn stats(&self) -> BusStats {
        BusStats::default()
    }

    /// Returns the states of independent parts of the bus. The default is none; see [`Sharded`].
    fn shards(&self) -> Vec<Shard> {
        Vec::new()
    }

    /// Returns `true` if [`run`](Self::run) needs a thread, so that busy sessions cannot delay its
    /// reads. A server of a bus disconnects a subscriber that reads too slowly. The default is
    /// `true`.
    fn needs_thread(&self) -> bool {
        true
    }
}

/// State of the connection of a [`Bus`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusStats {
    /// Number of frames that wait to be sent.
    pub queued_frames: usize,
    /// Size of these frames, in bytes.
    pub queued_bytes: usize,
    /// Time from the last probe to its answer, or `None` before the first answer.
    pub probe: Option<Duration>,
}

impl<B: Bus + ?Sized> Bus for Box<B> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        (**self).publish(to, frame)
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        (**self).subscribe(changes);
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        (**self).run(sink)
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        (**self).store()
    }

    fn subscribed(&self) -> BoxFuture<'_, ()> {
        (**self).subscribed()
    }

    fn subscribed_to<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, ()> {
        (**self).subscribed_to(subject)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        (**self).flush()
    }

    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn stats(&self) -> BusStats {
        (**self).stats()
    }

    fn shards(&self) -> Vec<Shard> {
        (**self).shards()
    }

    fn needs_thread(&self) -> bool {
        (**self).needs_thread()
    }
}

/// Receives the frames and events of a [`Bus`]. Its methods do not block.
pub trait Sink: Send + Sync {
    /// Takes a frame that was published to `subject`.
    fn deliver(&self, subject: &str, frame: Bytes);

    /// Takes a change of the bus.
    fn event(&self, event: Event);
}

/// Change of a [`Bus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The bus is connected. Subscriptions may not have been restored yet.
    Connected,
    /// All subscriptions are in effect on the server that the bus is connected to.
    Settled,
    /// All subscriptions are in effect, except those of some parts of a [`Sharded`] bus.
    Partial {
        /// Number of parts that are not connected, or whose subscriptions are not in effect.
        away: usize,
    },
    /// The connection is lost, or the bus does not answer.
    Disconnected,
    /// The bus has dropped this many received frames because they were not read in time.
    Lost(u64),
}

/// Limits of a [`Bus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame, in bytes.
    pub frame: usize,
}

/// Reason why a [`Bus`] has refused a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublishError {
    /// The queue of outgoing frames is full, or the share of this subject is.
    Full,
    /// The bus is not connected.
    Away,
    /// The frame is longer than [`Limits::frame`].
    TooLarge,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue to the bus is full",
            Self::Away => "the bus is not connected",
            Self::TooLarge => "the frame is too long for the bus",
        })
    }
}

impl Error for PublishError {}
