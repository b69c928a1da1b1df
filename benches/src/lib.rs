//! Benchmarks of getty: the servers that are compared, the load that is put on them, and the measures.
//!
//! README.md beside this crate says what each program measures and how to run it.

pub mod alone;
pub mod broadcast;
pub mod calls;
pub mod compare;
pub mod histogram;
pub mod in_memory;
pub mod instructions;
pub mod load;
pub mod machine;
pub mod memory;
pub mod options;
pub mod pass_through;
pub mod scripted;
pub mod server;
pub mod stats;
pub mod tls;
pub mod udp;

use std::{env, path::PathBuf};

pub use getty_benches_harness::{affinity, child, cpu, frames, websocket};

/// Where this crate's sources are: those that cargo runs it from, which with a target directory that several clones share
/// need not be those that it was built from.
#[must_use]
pub fn sources() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
        .into()
}
