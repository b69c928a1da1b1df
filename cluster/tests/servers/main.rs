//! Promises of a cluster over real servers, which the tests start, kill and stop.
//!
//! They are ignored by default because they need `nats-server` and `redis-server`.

mod accounting;
mod logins;
mod node;
mod numbered;
mod processes;
mod proxy;
mod secure;
mod server;
mod shards;
mod wire;
