//! UDP servers. Each starts in a new process in every round.

use getty_benches_harness::accept::WORKERS;

use super::{Case, Measured, Plan, rounds::take_turns};
use crate::{
    load::Shape,
    server::udp::{self, Kind},
};

/// The servers with and without sessions. The program `udp` compares further variants.
const KINDS: [Kind; 4] = [Kind::Hand, Kind::HandMmsg, Kind::Getty, Kind::GettyEndpoint];

/// Measures all of them in turns under the same load.
pub(super) fn compare(case: Case, shape: Shape, plan: &Plan) -> (Measured, Vec<String>) {
    let names = KINDS.map(Kind::name);
    take_turns(
        case,
        &names,
        case.group().repeated(),
        plan.rounds,
        |index| udp::measure(KINDS[index], plan.placement, WORKERS, shape, plan.duration),
    )
}
