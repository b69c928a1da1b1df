//! Helpers shared by several layers.

mod check_time;
pub(crate) mod hook;
mod jitter;
#[macro_use]
mod level;

pub(crate) use self::{check_time::check_time, jitter::Jitter, level::CompactLevel};
