//! Servers of datagrams, by the measure of the program that compares more of them.

use getty_benches_harness::accept::WORKERS;

use super::{
    Case, Plan,
    echo::WARM_UP,
    turns::{Measured, Sample, take_turns},
};
use crate::{
    load::Shape,
    udp::{self, Kind},
};

/// Those with a session a peer, and those without any. The others are variations, which `udp` compares.
const KINDS: [Kind; 4] = [Kind::Hand, Kind::HandMmsg, Kind::Getty, Kind::GettyEndpoint];

/// Puts all of them under the same load, in turns.
pub(super) fn compare(case: Case, shape: Shape, plan: &Plan) -> (Measured, Vec<String>) {
    let names = KINDS.map(Kind::name);
    take_turns(case, &names, plan.rounds, |index| {
        let kind = KINDS[index];
        let figures = udp::measure(kind, plan.place, WORKERS, shape, WARM_UP, plan.duration)?;
        Ok(Sample {
            cpu: figures.cpu,
            rate: figures.rate,
            latency: figures.latency,
            peak: Some(figures.peak),
        })
    })
}
