//! Servers that echo, each in a process of its own and new in every round.

use std::{io, time::Duration};

use super::{
    Candidate, Case, Plan,
    turns::{Measured, Sample, take_turns},
};
use crate::{
    load::{Load, Shape},
    memory,
};

/// A server's first moments are not measured.
pub(super) const WARM_UP: Duration = Duration::from_millis(250);

/// Puts all of them under the same load, in turns.
pub(super) fn compare(
    case: Case,
    shape: Shape,
    candidates: &[&Candidate],
    plan: &Plan,
) -> (Measured, Vec<String>) {
    let names: Vec<&str> = candidates.iter().map(|server| server.name()).collect();
    take_turns(case, &names, plan.rounds, |index| {
        sample(candidates[index], shape, plan)
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn sample(candidate: &Candidate, shape: Shape, plan: &Plan) -> io::Result<Sample> {
    let mut server = candidate.start(plan.place)?;
    let mut load = Load::open(server.address(), candidate.protocol(), shape)?;
    load.start(shape.in_flight)?;
    load.run(WARM_UP)?;
    let before = server.cpu()?;
    let echoed = load.run(plan.duration)?;
    let used = server.cpu()? - before;
    Ok(Sample {
        cpu: used as f64 / echoed.messages as f64,
        rate: echoed.messages as f64 / echoed.elapsed.as_secs_f64(),
        latency: echoed.latency,
        peak: Some(memory::peak(server.pid())?),
    })
}
