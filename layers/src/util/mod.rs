//! Helpers shared by several layers.

pub(crate) mod hook;
mod jitter;
#[macro_use]
mod level;

pub(crate) use self::{jitter::Jitter, level::CompactLevel};
