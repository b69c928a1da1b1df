//! Benchmarks of getty: the servers that are compared, the load that is put on them, and the measures.
//!
//! README.md beside this crate says what each program measures and how to run it.

pub mod affinity;
pub mod child;
pub mod cpu;
pub mod frames;
pub mod histogram;
pub mod load;
pub mod memory;
pub mod server;
pub mod stats;
