//! Echo servers over TCP. Each starts in a new process in every round.

use std::io;

use super::{Candidate, Case, Measured, Plan, rounds::take_turns};
use crate::{
    load::{self, Shape, TcpLoad},
    measure::Sample,
};

/// Measures all candidates in turns under the same load.
pub(super) fn compare(
    case: Case,
    shape: Shape,
    candidates: &[&Candidate],
    plan: &Plan,
) -> (Measured, Vec<String>) {
    let names: Vec<&str> = candidates.iter().map(|server| server.name()).collect();
    take_turns(
        case,
        &names,
        case.group().repeated(),
        plan.rounds,
        |index| sample(candidates[index], shape, plan),
    )
}

fn sample(candidate: &Candidate, shape: Shape, plan: &Plan) -> io::Result<Sample> {
    let mut server = candidate.start(plan.placement)?;
    let mut load = TcpLoad::open(server.address(), candidate.protocol(), shape)?;
    load.start(shape.in_flight)?;
    load::sample(&mut server, plan.duration, |duration| load.run(duration))
}
