//! What another process keeps resident.

use std::{fs, io};

/// The bytes of anonymous memory (heap and stacks) that process `pid` keeps resident.
///
/// Read from `smaps_rollup`, which walks the page tables: the counters in `status` lag behind by some hundred
/// kilobytes, and pages of the executable that happen to be touched are no connection's memory.
///
/// # Errors
///
/// If the process is gone or the file is not as expected.
pub fn resident(pid: u32) -> io::Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Anonymous:")
}

/// The highest resident set that process `pid` ever had, in bytes, files included.
///
/// # Errors
///
/// If the process is gone or the file is not as expected.
pub fn peak(pid: u32) -> io::Result<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn kilobytes(path: &str, field: &str) -> io::Result<u64> {
    fs::read_to_string(path)?
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|value| value.trim().parse::<u64>().ok())
        .map(|value| value * 1024)
        .ok_or_else(|| io::Error::other(format!("no field {field} in {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_grows_by_what_is_touched() {
        let before = resident(std::process::id()).unwrap();
        let touched = std::hint::black_box(vec![1_u8; 8 << 20]);
        let after = resident(std::process::id()).unwrap();
        assert!(
            after - before >= 7 << 20,
            "{before} {after} {}",
            touched.len()
        );
        assert!(peak(std::process::id()).unwrap() >= after);
    }
}
