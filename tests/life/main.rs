//! The life of a session: layers that beat, time out and close, through the real session loop with the clock paused.

mod handshake_timeout;
mod heartbeat;
mod idle_timeout;
mod lifetime;
mod read_timeout;
mod scale;
#[path = "../contracts/support/mod.rs"]
#[allow(dead_code, reason = "the contracts use all of it")]
mod support;
mod write_timeout;
