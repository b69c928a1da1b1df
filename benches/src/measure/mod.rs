//! Measurements: latencies, quartiles, memory, the machine, and the order of rounds.

mod histogram;
pub mod machine;
pub mod memory;
mod rounds;
mod stats;

pub use self::{
    histogram::Histogram,
    rounds::{Sample, again, print_costs, schedule},
    stats::Quartiles,
};
