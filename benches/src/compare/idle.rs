//! Memory of idle connections.

use std::{fmt, io, thread, time::Duration};

use super::{Candidate, Case, Plan, case::IDLE};
use crate::{
    child::Placement,
    load::{Shape, TcpLoad},
    measure::{Quartiles, memory},
};

/// Number of connections that are open before the measurement. They cover what a server
/// allocates once.
const OPEN_BEFORE: usize = 100;
/// Time in which an idle server can release memory.
const SETTLE: Duration = Duration::from_millis(300);
/// Number of measurements. Memory is nearly the same each time.
const ROUNDS: usize = 2;

/// Resident bytes of a connection, for each server.
#[derive(Debug)]
pub(super) struct Idle {
    case: Case,
    servers: Vec<(&'static str, Quartiles)>,
}

/// Measures all candidates one after another. A candidate that fails will be left out. The
/// second result has the reason.
pub(super) fn compare(case: Case, candidates: &[&Candidate], plan: &Plan) -> (Idle, Vec<String>) {
    let mut servers = Vec::new();
    let mut failures = Vec::new();
    for candidate in candidates {
        let name = candidate.name();
        let figures: io::Result<Vec<f64>> = (1..=ROUNDS)
            .map(|round| {
                eprintln!("{case} {name} {round}/{ROUNDS}");
                resident(candidate, plan.placement)
            })
            .collect();
        match figures.map(Quartiles::of) {
            Ok(figures) => servers.extend(figures.map(|figures| (name, figures))),
            Err(error) => failures.push(format!("{case} {name}: {error}")),
        }
    }
    (Idle { case, servers }, failures)
}

/// Returns the resident bytes that each of many connections adds after one echo.
#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn resident(candidate: &Candidate, placement: Placement) -> io::Result<f64> {
    let server = candidate.start(placement)?;
    let shape = Shape {
        connections: OPEN_BEFORE,
        in_flight: 1,
        payload: 64,
    };
    let mut load = TcpLoad::open(server.address(), candidate.protocol(), shape)?;
    load.echo_once(0)?;
    thread::sleep(SETTLE);
    let before = memory::resident(server.pid())?;
    load.extend(server.address(), IDLE - OPEN_BEFORE)?;
    load.echo_once(OPEN_BEFORE)?;
    thread::sleep(SETTLE);
    let after = memory::resident(server.pid())?;
    Ok((after as f64 - before as f64) / (IDLE - OPEN_BEFORE) as f64)
}

impl Idle {
    /// Returns the case.
    pub(super) fn case(&self) -> Case {
        self.case
    }

    /// Returns the median of each server in the order of the table.
    pub(super) fn medians(&self) -> impl Iterator<Item = (&str, f64)> {
        self.servers
            .iter()
            .map(|(name, figures)| (*name, figures.median))
    }

    /// Returns the median of one server.
    pub(super) fn median(&self, name: &str) -> Option<f64> {
        self.medians()
            .find_map(|(known, median)| (known == name).then_some(median))
    }
}

/// Formats the rows of the table without its heading.
impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figures) in &self.servers {
            writeln!(f, "| {} {IDLE} | {name} | {figures:.0} |", self.case)?;
        }
        Ok(())
    }
}
