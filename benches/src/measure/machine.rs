//! The machine that runs the benchmarks.

use std::{fs, io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to its maximum. Child processes will inherit it.
///
/// The load and the server must each have a descriptor for each of 10,000 connections.
///
/// # Errors
///
/// If the limit cannot be changed.
pub fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

/// Returns a line about the machine. It should be kept with the figures.
#[must_use]
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        });
    format!(
        "{} x {model}, Linux {}, load {} before the first run",
        thread::available_parallelism().map_or(0, usize::from),
        read("/proc/sys/kernel/osrelease")
            .split(['-', '\n'])
            .next()
            .unwrap_or_default(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}
