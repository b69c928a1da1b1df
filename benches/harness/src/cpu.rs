//! CPU time from the nanosecond clocks of the kernel: user and system time together.
//!
//! The kernel updates these clocks at each context switch. They are exact enough for runs of a
//! fraction of a second; `/proc/<pid>/stat` has a resolution of 10 ms.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Returns the CPU time of this process with all its threads, in nanoseconds.
#[must_use]
pub fn of_process() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Returns the CPU time of the calling thread, in nanoseconds.
#[must_use]
pub fn of_thread() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    // CPU clocks start at zero, so neither part can be negative.
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
