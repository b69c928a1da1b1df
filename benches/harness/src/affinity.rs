//! The load on one processor and the server on the others, for comparisons that are to be sharp rather than natural.
//!
//! With as many busy threads as processors, how the kernel happens to place them moves CPU time by a tenth.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread, and what it starts from now on, on one processor.
///
/// # Errors
///
/// If the kernel refuses.
pub fn keep_to_one() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)) {
        one.set(first);
    }
    Ok(sched_setaffinity(None, &one)?)
}

/// Keeps the calling thread, and what it starts from now on, away from the processors that it is kept to.
///
/// # Errors
///
/// If there are no others.
pub fn move_away() -> io::Result<()> {
    let taken = sched_getaffinity(None)?;
    let mut others = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| !taken.is_set(cpu)) {
        others.set(cpu);
    }
    // The kernel leaves out those that do not exist or are not ours.
    Ok(sched_setaffinity(None, &others)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_and_the_others_are_apart() {
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
