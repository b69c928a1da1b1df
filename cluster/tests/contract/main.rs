//! Promises of a cluster: each test runs over the bus in memory with a paused clock. Over NATS
//! and Redis the same tests run with `--ignored`, which starts the servers.

mod claims;
mod engine;
#[cfg(all(feature = "nats", feature = "redis"))]
mod engines;
mod guest;
#[cfg(feature = "metrics")]
mod metrics;
mod nodes;
#[cfg(all(feature = "nats", feature = "redis"))]
#[path = "../servers/proxy.rs"]
#[allow(dead_code, reason = "the other program that uses it needs more")]
mod proxy;
#[cfg(all(feature = "nats", feature = "redis"))]
#[path = "../servers/server.rs"]
#[allow(dead_code, reason = "the other program that uses it needs more")]
mod server;
mod shards;
mod spy;
mod support;
mod topics;
mod watches;
