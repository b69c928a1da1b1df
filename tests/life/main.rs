//! The life of a session: the layers around it, through the public API and the real session loop, with the clock paused.

mod access;
mod active;
mod catch_panic;
mod close_callback;
mod cron;
mod end_log;
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
#[allow(
    dead_code,
    reason = "the contracts' tests use more of it than these do"
)]
mod support;
mod trace;
mod write_timeout;
