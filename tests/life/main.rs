//! The life of a session: layers that beat, time out and close, through the real session loop with the clock paused.

mod access;
mod active;
mod catch_panic;
mod close_callback;
mod cron;
mod handshake_timeout;
mod heartbeat;
mod idle_timeout;
mod kit;
mod lifetime;
#[cfg(feature = "metrics")]
mod metrics;
mod on_open;
mod peer_limit;
mod rate_limit;
mod read_timeout;
mod registry;
mod scale;
mod spawn;
#[path = "../contracts/support/mod.rs"]
#[allow(dead_code, reason = "the contracts use all of it")]
mod support;
mod trace;
mod write_timeout;
