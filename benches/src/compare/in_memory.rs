//! What has no need of a socket to be compared: one message to many members, and calls. It runs on this thread.

use std::{io, panic, time::Instant};

use super::{
    Case, Plan,
    turns::{Measured, Sample, take_turns},
};
use crate::{
    broadcast::{Carrier, Crowd, Kind},
    calls::Caller,
    cpu,
    histogram::Histogram,
};

/// How many deliveries a sample has, in messages of a kibibyte.
const DELIVERIES: u64 = 240_000;
const PAYLOAD: usize = 1024;
/// How many calls a sample has.
const CALLS: usize = 300_000;

/// One message to so many members whose transports only count.
pub(super) fn broadcast(case: Case, members: usize, plan: &Plan) -> (Measured, Vec<String>) {
    let names = Kind::ALL.map(Kind::name);
    take_turns(case, &names, plan.rounds, |index| {
        let crowd = Crowd::new(Kind::ALL[index], Carrier::Sink, members, PAYLOAD);
        let times = (DELIVERIES / members as u64).max(1);
        sample(times * members as u64, || crowd.broadcast(times, 1))
    })
}

/// Calls that an echo answers, in memory.
pub(super) fn calls(case: Case, by_id: bool, tasks: usize, plan: &Plan) -> (Measured, Vec<String>) {
    let callers = if by_id {
        [Caller::MultiplexByHand, Caller::Multiplex]
    } else {
        [Caller::PipelineByHand, Caller::Pipeline]
    };
    take_turns(case, &["by hand", "getty's client"], plan.rounds, |index| {
        sample(CALLS as u64, || callers[index].run(tasks, CALLS))
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn sample(messages: u64, work: impl FnOnce()) -> io::Result<Sample> {
    let (start, before) = (Instant::now(), cpu::of_thread());
    // one that is lost is a panic there, and must not end the rest of a comparison
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
