//! Faults of peers, networks, processes and user code, on every transport and in both roles.
//! docs/faults.md lists them all, with those that other test crates cover.
//!
//! The tests run on Linux: its kernel decides what a peer sees of a reset, and some count
//! descriptors or fill a disk.

#![cfg(target_os = "linux")]

mod app;
mod boundaries;
mod children;
mod clock;
mod crowd;
mod hooks;
mod leaks;
mod logs;
mod phases;
mod processes;
mod relay;
mod runtime;
mod sockets;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts the bytes of the heap for `leaks`.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
