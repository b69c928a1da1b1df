//! Runs this program under valgrind and counts its instructions.

use std::{
    env,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use getty::BoxError;

use super::Scenario;

/// Returns the instructions of each scenario in order.
///
/// A figure is the difference of a long and a short run, divided by the difference of their
/// repetitions. One-time work will cancel out. There is one process for each processor. The
/// counts must not depend on that.
///
/// # Errors
///
/// If valgrind is not installed or a scenario fails under it.
pub fn count(scenarios: &[Scenario]) -> Result<Vec<f64>, BoxError> {
    let figures: Vec<_> = scenarios.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((scenario, figure)) = {
            let index = next.fetch_add(1, Relaxed);
            scenarios.get(index).zip(figures.get(index))
        } {
            let _ = figure.set(difference(scenario));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    let figures = figures.into_iter().filter_map(OnceLock::into_inner);
    figures.collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn difference(scenario: &Scenario) -> Result<f64, BoxError> {
    let [short, long] = scenario.times();
    let [few, many] = [run(scenario, short)?, run(scenario, long)?];
    Ok((many as f64 - few as f64) / (long - short) as f64)
}

/// Counts one run. The child's arguments are `run`, the scenario, and the number of
/// repetitions.
fn run(scenario: &Scenario, times: u64) -> Result<u64, BoxError> {
    let name = scenario.name();
    let output = Command::new("valgrind")
        // glibc's fast bins are consolidated more or less often, depending on the layout of the
        // heap. The layout changes with every build.
        .env("GLIBC_TUNABLES", "glibc.malloc.mxfast=0")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["run", name, &times.to_string()])
        .output()
        .map_err(|error| format!("cannot start valgrind, which must be installed: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{name} failed under valgrind:\n{report}").into());
    }
    report
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| format!("valgrind reported no count:\n{report}").into())
}
