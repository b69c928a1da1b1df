//! Tests of the layers around a session. They use the public API, the real session loop and a
//! paused clock.

mod access;
mod activity;
mod catch_panic;
mod close_callback;
mod end_log;
mod handshake_timeout;
mod heartbeat;
mod idle_timeout;
mod interval;
mod max_age;
#[cfg(feature = "metrics")]
mod metrics;
mod on_open;
mod peer_limit;
mod pending_limit;
mod rate_limit;
mod read_timeout;
mod registry;
mod scale;
mod settings;
mod spawn;
#[path = "../contracts/support/mod.rs"]
#[allow(
    dead_code,
    reason = "the tests in `contracts` use more of these helpers"
)]
mod support;
mod trace;
mod write_timeout;

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
