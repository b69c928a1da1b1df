//! Memory of another process.

use std::{fs, io};

/// Returns the anonymous resident memory (heap and stacks) of process `pid`, in bytes.
///
/// Reads `smaps_rollup`, which walks the page tables. The counters in `status` may lag by some
/// hundred kilobytes. They also include pages of the executable, which belong to no connection.
///
/// # Errors
///
/// If the process has ended or the file has an unexpected form.
pub fn resident(pid: u32) -> io::Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Anonymous:")
}

/// Returns the peak resident memory of process `pid`, in bytes with pages of files.
///
/// # Errors
///
/// If the process has ended or the file has an unexpected form.
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
