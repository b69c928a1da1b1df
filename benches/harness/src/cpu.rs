//! CPU time, user and system together, from the kernel's nanosecond clocks.
//!
//! The kernel accounts these at every context switch, so unlike the ticks of `/proc/<pid>/stat` (10 ms each) they
//! are exact enough for runs of a fraction of a second.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The CPU time of this process, all its threads included, in nanoseconds.
#[must_use]
pub fn of_process() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// The CPU time of the calling thread in nanoseconds.
#[must_use]
pub fn of_thread() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    // CPU clocks start at zero with the process, so neither part is ever negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_with_work() {
        let (process, thread) = (of_process(), of_thread());
        while of_thread() == thread {}
        assert!(of_process() > process);
    }
}
