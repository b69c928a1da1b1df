//! Whole getty servers and clients in a simulated network, with faults that a seed decides.
//!
//! See `docs/testing-simulated.md`.

pub mod app;
pub mod ledger;
pub mod net;
pub mod scenarios;
pub mod trace;
pub mod world;

#[cfg(not(tokio_unstable))]
compile_error!("without `--cfg tokio_unstable` no seed repeats; unset RUSTFLAGS and build in sim/");

#[cfg(doctest)]
#[doc = include_str!("../../docs/testing-simulated.md")]
struct TestingSimulated;
