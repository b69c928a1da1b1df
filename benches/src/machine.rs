//! The machine that it all runs on.

use std::{fs, io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Ten thousand connections need as many descriptors on either side; children inherit the limit.
///
/// # Errors
///
/// If the system refuses.
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

/// One line about the machine, for the record beside the figures.
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
