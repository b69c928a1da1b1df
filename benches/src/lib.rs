//! Benchmarks of getty: servers to compare, loads for them, and measurements.
//!
//! The programs in `bin/` each answer one question; `benches/README.md` lists them.
//!
//! - [`server`]: the echo servers. Each runs in a child process.
//! - [`load`]: the clients that keep a server busy and check each answer.
//! - [`workload`]: work that runs in this process and on one thread.
//! - [`transport`]: in-memory transports for the workloads.
//! - [`measure`]: histograms, quartiles, memory, and the order of rounds.
//! - [`compare`]: the comparison of servers with its tables and targets.
//! - [`instructions`]: the scenarios whose instructions are counted.

pub mod cli;
pub mod compare;
pub mod instructions;
pub mod load;
pub mod measure;
pub mod server;
pub mod transport;
pub mod workload;

use std::{env, path::PathBuf};

pub use getty_benches_harness::{affinity, child, cpu, frames, websocket};

/// Returns the folder of this crate's sources.
///
/// Cargo sets it when it runs the program. The folder at build time is only the fallback:
/// clones that share a target directory may run a program that another clone has built.
#[must_use]
pub fn sources() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
        .into()
}
