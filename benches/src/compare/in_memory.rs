//! Broadcasts and calls. They need no socket and run on the calling thread.

use std::{io, panic, time::Instant};

use super::{Case, Measured, Plan, rounds::take_turns};
use crate::{
    cpu,
    measure::{Histogram, Sample},
    workload::{
        broadcast::{Broadcast, Carrier, Kind},
        calls::Caller,
    },
};

/// Number of deliveries in a sample with a payload of 1 KiB each.
const DELIVERIES: u64 = 240_000;
const PAYLOAD: usize = 1024;
/// Number of calls in a sample.
const CALLS: usize = 300_000;

/// Compares one message to many members over transports that only count.
pub(super) fn broadcast(case: Case, members: usize, plan: &Plan) -> (Measured, Vec<String>) {
    let names = Kind::ALL.map(Kind::name);
    take_turns(
        case,
        &names,
        case.group().repeated(),
        plan.rounds,
        |index| {
            let broadcast = Broadcast::new(Kind::ALL[index], Carrier::Sink, members, PAYLOAD);
            let times = (DELIVERIES / members as u64).max(1);
            sample(times * members as u64, || broadcast.send(times, 1))
        },
    )
}

/// Compares calls to an echo in memory.
pub(super) fn calls(case: Case, by_id: bool, tasks: usize, plan: &Plan) -> (Measured, Vec<String>) {
    let callers = if by_id {
        [Caller::MultiplexByHand, Caller::Multiplex]
    } else {
        [Caller::PipelineByHand, Caller::Pipeline]
    };
    let names = ["by hand", "getty's client"];
    take_turns(
        case,
        &names,
        case.group().repeated(),
        plan.rounds,
        |index| sample(CALLS as u64, || callers[index].run(tasks, CALLS)),
    )
}

#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn sample(messages: u64, work: impl FnOnce()) -> io::Result<Sample> {
    let (start, before) = (Instant::now(), cpu::of_thread());
    // A lost message panics in the workload. The comparison must go on.
    panic::catch_unwind(panic::AssertUnwindSafe(work))
        .map_err(|_| io::Error::other("a message was lost"))?;
    let used = cpu::of_thread() - before;
    Ok(Sample {
        cpu: used as f64 / messages as f64,
        rate: messages as f64 / start.elapsed().as_secs_f64(),
        latency: Histogram::default(),
        peak: None,
    })
}
