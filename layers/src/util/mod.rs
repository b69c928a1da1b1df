//! Helpers shared by several layers.

#[macro_use]
mod accessors;
#[macro_use]
mod level;
mod jitter;

pub(crate) use self::{jitter::Jitter, level::CompactLevel};
