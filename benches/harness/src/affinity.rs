//! Placement of the load on one processor and of the server on the others.
//!
//! The kernel's placement of threads may change CPU time by a tenth if as many threads are busy
//! as there are processors. A fixed placement gives sharper comparisons, but it is less
//! natural.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Restricts the calling thread and all threads that it starts to one processor.
///
/// # Errors
///
/// If the process may not change its processors.
pub fn keep_to_one() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)) {
        one.set(first);
    }
    Ok(sched_setaffinity(None, &one)?)
}

/// Moves the calling thread and all threads that it starts to the processors that were not
/// allowed so far.
///
/// # Errors
///
/// If there are no other processors.
pub fn move_away() -> io::Result<()> {
    let taken = sched_getaffinity(None)?;
    let mut others = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| !taken.is_set(cpu)) {
        others.set(cpu);
    }
    // The kernel ignores processors that do not exist or are not available.
    Ok(sched_setaffinity(None, &others)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_server_processors_do_not_overlap() {
        let all = sched_getaffinity(None).unwrap();
        if all.count() < 2 {
            return;
        }
        keep_to_one().unwrap();
        let one = sched_getaffinity(None).unwrap();
        move_away().unwrap();
        let others = sched_getaffinity(None).unwrap();
        assert_eq!((one.count(), others.count()), (1, all.count() - 1));
        assert!((0..CpuSet::MAX_CPU).all(|cpu| !(one.is_set(cpu) && others.is_set(cpu))));
    }
}
