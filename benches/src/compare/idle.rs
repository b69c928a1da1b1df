//! What connections cost that say nothing.

use std::{fmt, io, thread, time::Duration};

use super::{Candidate, Case, Plan, case::IDLE};
use crate::{
    child::Place,
    load::{Load, Shape},
    memory,
    stats::Quartiles,
};

/// Connections that are open before the memory of the others is measured: by then what a server allocates once is.
const OPEN_BEFORE: usize = 100;
/// How long an idle server has to give back what it can.
const SETTLE: Duration = Duration::from_millis(300);
/// Memory is the same every time, or nearly.
const ROUNDS: usize = 2;

/// Resident bytes a connection of each server.
#[derive(Debug)]
pub(super) struct Idle {
    case: Case,
    servers: Vec<(&'static str, Quartiles)>,
}

/// Measures all of them, one after another; whoever fails is left out.
pub(super) fn compare(case: Case, candidates: &[&Candidate], plan: &Plan) -> (Idle, Vec<String>) {
    let mut servers = Vec::new();
    let mut failures = Vec::new();
    for candidate in candidates {
        let name = candidate.name();
        let figures: io::Result<Vec<f64>> = (1..=ROUNDS)
            .map(|round| {
                eprintln!("{case} {name} {round}/{ROUNDS}");
                resident(candidate, plan.place)
            })
            .collect();
        match figures.map(Quartiles::of) {
            Ok(figures) => servers.extend(figures.map(|figures| (name, figures))),
            Err(error) => failures.push(format!("{case} {name}: {error}")),
        }
    }
    (Idle { case, servers }, failures)
}

/// What each of many open connections adds to the server's resident memory after one echo each.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn resident(candidate: &Candidate, place: Place) -> io::Result<f64> {
    let server = candidate.start(place)?;
    let shape = Shape {
        connections: OPEN_BEFORE,
        in_flight: 1,
        payload: 64,
    };
    let mut load = Load::open(server.address(), candidate.protocol(), shape)?;
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
    /// What was measured.
    pub(super) fn case(&self) -> Case {
        self.case
    }

    /// The median of each, in the order of the table.
    pub(super) fn medians(&self) -> impl Iterator<Item = (&str, f64)> {
        self.servers
            .iter()
            .map(|(name, figures)| (*name, figures.median))
    }

    /// The median of one.
    pub(super) fn median(&self, name: &str) -> Option<f64> {
        self.medians()
            .find_map(|(known, median)| (known == name).then_some(median))
    }
}

/// The lines of the table, without its head.
impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figures) in &self.servers {
            writeln!(f, "| {} {IDLE} | {name} | {figures:.0} |", self.case)?;
        }
        Ok(())
    }
}
