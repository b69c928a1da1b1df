//! Limits on the work of one poll and on waiting bytes, and the time that the loop waits for.

mod budget;
mod buffer_sizing;
mod clock;
mod timer;
mod watermark;

pub(crate) use self::budget::unconstrained;
pub(super) use self::{
    budget::{CooperativeBudget, poll_ready_unconstrained},
    buffer_sizing::BufferSizing,
    clock::Clock,
    timer::Timer,
    watermark::{Waiting, Watermark},
};
