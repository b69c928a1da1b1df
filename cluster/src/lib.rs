//! getty on several machines: rooms, pushes, kicks and single login across nodes.
//!
//! A [`Group`](getty_layers::Group), [`Topics`](getty_layers::Topics) and a
//! [`Registry`](getty_layers::Registry) end at the process. A [`Cluster`] connects the
//! processes, called nodes, over a bus: in memory, NATS or Redis.
//!
//! | within a process | in a cluster |
//! |---|---|
//! | [`Topics`](getty_layers::Topics) | [`ClusterTopics`], from [`Cluster::topics`] |
//! | [`Group`](getty_layers::Group) | [`ClusterGroup`], from [`Cluster::group`] |
//! | names in a [`Registry`](getty_layers::Registry) or a map | [`Claims`], from [`Cluster::claims`] |
//! | members of a topic | [`ClusterTopics::ask`], [`ClusterTopics::watch`] |
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_cluster::{BusResult, Cluster, ClusterTopics, Unsendable, bus::Memory, form::Plain};
//! use getty_core::{Connection, Session, driver};
//!
//! type Rooms = ClusterTopics<String, String>;
//!
//! fn say(rooms: &Rooms, from: &Session<String>, text: String) -> Result<(), Unsendable<String>> {
//!     let sent = rooms.broadcast_except("tea", from, text)?;
//!     if sent.bus == BusResult::Away {
//!         eprintln!("only the members on this machine got it");
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Unsendable<String>> {
//! // Two nodes in one process. Over NATS or Redis they are on two machines.
//! let bus = Memory::new();
//! let one = Cluster::of("chat").over(bus.clone()).start();
//! let two = Cluster::of("chat").over(bus).start();
//! let rooms: Rooms = one.topics("rooms", Plain);
//! let rooms_of_two: Rooms = two.topics("rooms", Plain);
//!
//! // sessions without sockets, for tests
//! let connections = [Connection::new(()), Connection::new(())];
//! let [(ann, _), (bob, _)] = connections.each_ref().map(|c| driver::pair(c.handle().clone()));
//! rooms.join("tea".to_owned(), &ann);
//! rooms_of_two.join("tea".to_owned(), &bob);
//! rooms_of_two.subscribed("tea", Duration::from_secs(1)).await;
//!
//! one.up().await;
//! say(&rooms, &ann, "is ready".to_owned())?;
//! while two.snapshot().received == 0 {
//!     tokio::task::yield_now().await;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//!
#![doc = include_str!("promises.md")]
//!
//! Members on this node get a message directly and not through the bus. So an outage of the bus
//! stops nothing locally, and the latency is that of a process. In return, members on two nodes
//! may see two publishers in different orders.
//!
//! Nothing is stored: a message for a member that is not there is lost, and there is no
//! history.
//!
//! # Metrics
//!
//! With the feature `metrics` a task of each node reads its counters every ten seconds and
//! publishes them over the facade of the `metrics` crate. [`Cluster::leave`] does so as well.
//! Messages have no extra cost.
//!
#![doc = include_str!("metrics.md")]
//!
//! All have the labels `bus`, such as `nats`, and `cluster`, the namespace. Several nodes of
//! one cluster in one process publish the same metrics, so their values are mixed.
//!
//! # Security
//!
//! A program that may publish on the bus can send as any user and close every session. Give
//! each application credentials for its own subjects (`getty.<namespace>.>`), and use TLS.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`bus`] | the buses in memory and over NATS and Redis, shards, and the traits for others |
//! | [`form`] | the form of messages between nodes |

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bus;
mod cards;
mod claims;
mod close;
mod cluster;
mod counters;
mod dispatch;
mod events;
pub mod form;
mod frame;
mod group;
mod key;
#[cfg(feature = "metrics")]
mod metrics;
mod nodes;
mod presence;
mod questions;
mod subject;
mod topics;

use std::fmt;

pub use self::{
    claims::{ClaimError, Claimed, Claims, ClaimsBuilder, LostName, Previous, StoreAway},
    cluster::{Cluster, ClusterBuilder, State},
    counters::{ClaimsSnapshot, Snapshot, TopicsSnapshot},
    events::{NodeEvent, NodeEvents},
    group::ClusterGroup,
    key::{Key, KeyBytes},
    nodes::Node,
    presence::{Watch, WatchEvent},
    questions::{Answers, Member},
    subject::Subject,
    topics::{BusResult, ClusterTopics, Gap, Sent, TopicsBuilder, Unsendable},
};

/// Random id of a node, a new one at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Locks a mutex whose guarded code may have panicked.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Returns a number that no other node will have chosen.
fn random_id() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Its keys come from the operating system, once a thread, and differ for each `new`.
    RandomState::new().hash_one(std::process::id())
}

/// Compiles the programs of the page on clusters as documentation tests.
#[cfg(all(doctest, feature = "nats", feature = "redis"))]
#[doc = include_str!("../../docs/clusters.md")]
#[derive(Debug)]
pub struct Clusters;

/// Compiles the program of the README as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
