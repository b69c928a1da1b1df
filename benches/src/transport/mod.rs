//! In-memory transports for workloads.

mod loopback;
mod scripted;

pub use self::{loopback::Loopback, scripted::Scripted};
