//! Promises of a cluster, over the bus in memory with faults and a paused clock.

mod claims;
mod nodes;
mod spy;
mod support;
mod topics;
