//! getty on several machines: rooms, pushes, kicks and single login across nodes.
//!
//! A [`Group`](getty_layers::Group), [`Topics`](getty_layers::Topics) and a
//! [`Registry`](getty_layers::Registry) end at the process. A [`Cluster`] connects the
//! processes, called nodes, over a bus: in memory, NATS or Redis.
//!
//! ```
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
//! rooms_of_two.subscribed("tea").await;
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
//! | subject | promise |
//! |---|---|
//! | loss | a broadcast reaches members on other nodes at most once; members on this node as in [`Topics`](getty_layers::Topics) |
//! | order | messages of one task to one topic arrive in order at each member, possibly with gaps |
//! | duplicates | are dropped |
//! | begin | a member may miss messages of other nodes that are published within milliseconds of its `join` |
//! | report | [`Sent`] has the local [`Report`](getty_layers::group::Report), and whether the bus has taken the message; members on other nodes are not counted |
//! | gaps | the next message of the same publisher to the topic shows them: members get a [notice](TopicsBuilder::with_notice), and [`Snapshot::lost`] counts them |
//!
//! Members on this node get a message directly and not through the bus. So an outage of the bus
//! stops nothing locally, and the latency is that of a process. In return, members on two nodes
//! may see two publishers in different orders.
//!
//! Nothing is stored: a message for a member that is not there is lost, and there is no
//! history.
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
//! | [`bus`] | the buses in memory and over NATS and Redis, and the traits for others |
//! | [`form`] | the form of messages between nodes |

// on docs.rs each item names the feature that it needs
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bus;
mod claims;
mod close;
mod cluster;
mod counters;
mod dispatch;
pub mod form;
mod frame;
mod key;
mod nodes;
mod questions;
mod subject;
mod topics;

use std::fmt;

pub use self::{
    claims::{ClaimError, Claimed, Claims, ClaimsBuilder, Previous, StoreAway},
    cluster::{Cluster, ClusterBuilder, State},
    counters::Snapshot,
    key::{Key, KeyBytes},
    nodes::Node,
    questions::{Answers, Member},
    subject::Subject,
    topics::{BusResult, ClusterTopics, Sent, TopicsBuilder, Unsendable},
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
