//! Faults of peers, networks, processes and user code, on every transport and in both roles.
//! docs/faults.md lists them all, with those that other test crates cover.

mod app;
mod boundaries;
mod clock;
mod crowd;
mod hooks;
#[cfg(target_os = "linux")]
mod leaks;
mod logs;
mod phases;
#[cfg(unix)]
mod processes;
mod relay;
mod runtime;
mod sockets;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts the bytes of the heap for `leaks`.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
