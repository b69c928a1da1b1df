//! The layers around a session's life, through the public API and the real session loop, with time paused.

mod catch_panic;
mod close_callback;
mod cron;
mod kit;
#[cfg(feature = "metrics")]
mod metrics;
mod on_open;
#[allow(
    dead_code,
    reason = "the contracts' tests use more of it than these do"
)]
#[path = "../contracts/support/mod.rs"]
mod support;
mod trace;
