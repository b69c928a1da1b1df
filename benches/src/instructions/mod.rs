//! What is counted in instructions, how, and what becomes of the figures.

pub mod baseline;
pub mod callgrind;
mod codecs;
mod lives;
mod wires;

use std::fmt;

use tokio::runtime::{Builder, Runtime};

use crate::{
    alone::{self, Alone},
    broadcast::{Carrier, Crowd, Kind},
    calls::Caller,
    in_memory::{Loop, Prepared},
};

/// The payload of what is echoed.
const PAYLOAD: usize = 64;
/// How many messages are on their way together: many, so that it is the message that counts, and one, so that it is the
/// turn of the loop.
const AT_ONCE: [u64; 2] = [50, 1];
/// How many connections a broadcast goes to.
const CONNECTIONS: u64 = 100;

/// Whose code is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// getty's: held to the baseline.
    Ours,
    /// What getty is compared with: only told. Hash tables with random keys and others' buffers are in it, which come
    /// out differently each time.
    Reference,
}

use Standing::{Ours, Reference};

/// Some work that can be done so many times, whose instructions are counted.
pub struct Scenario {
    name: String,
    standing: Standing,
    /// How often in the short run and in the long one.
    times: [u64; 2],
    work: Box<dyn Fn(u64) + Send + Sync>,
}

impl Scenario {
    /// Counted between a thousand times and eleven thousand.
    fn new(
        name: impl Into<String>,
        standing: Standing,
        work: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            standing,
            times: [1_000, 11_000],
            work: Box::new(work),
        }
    }

    fn with_times(self, short: u64, long: u64) -> Self {
        Self {
            times: [short, long],
            ..self
        }
    }

    /// Its name in tables, in the baseline and on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose code it is.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// How often it is done in the short run and in the long one.
    #[must_use]
    pub const fn times(&self) -> [u64; 2] {
        self.times
    }

    /// Does it so many times.
    pub fn run(&self, times: u64) {
        (self.work)(times);
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

/// Every scenario, in the order of the table.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(loops());
    all.extend(wires::scenarios());
    all.extend(layers());
    all.extend(calls());
    all.extend(broadcasts());
    all.extend(lives::scenarios());
    all.extend(codecs::scenarios());
    all
}

/// A message through a whole loop.
fn loops() -> impl Iterator<Item = Scenario> {
    let loops = [
        ("by-hand", Reference, Loop::ByHand),
        ("codec", Reference, Loop::Codec),
        ("getty", Ours, Loop::Getty),
        ("getty-bytes", Ours, Loop::GettyBytes),
        ("getty-tower", Ours, Loop::GettyTower),
        ("getty-full", Ours, Loop::GettyFull),
        ("ws-send", Reference, Loop::WsSend),
        ("ws-getty", Ours, Loop::WsGetty),
    ];
    each_at_once(loops, |(name, standing, kind), at_once| {
        Scenario::new(format!("{name}-{at_once}"), standing, move |messages| {
            let frames = usize::try_from(at_once).expect("a few");
            Prepared::new(kind, frames, PAYLOAD, messages / at_once).scripted();
        })
    })
}

/// A message through each layer alone, and through several that do nothing.
fn layers() -> impl Iterator<Item = Scenario> {
    let of = |standing| move |(name, stack): Alone| (format!("layer-{name}"), standing, stack);
    let alone = [alone::NONE].into_iter().chain(alone::all()).map(of(Ours));
    let tower = alone::TOWER.into_iter().map(of(Reference));
    let depths = alone::DEPTHS
        .into_iter()
        .map(|(name, stack)| (name.to_owned(), Ours, stack));
    let stacks = alone.chain(tower).chain(depths);
    each_at_once(stacks, |(name, standing, stack), at_once| {
        Scenario::new(format!("{name}-{at_once}"), standing, move |messages| {
            let frames = usize::try_from(at_once).expect("a few");
            stack().echo(&runtime(), frames, PAYLOAD, messages / at_once);
        })
    })
}

/// A call and its answer, each call by a task that waits for it.
fn calls() -> impl Iterator<Item = Scenario> {
    let callers = [
        ("calls-pipeline-by-hand", Reference, Caller::PipelineByHand),
        ("calls-pipeline", Ours, Caller::Pipeline),
        (
            "calls-multiplex-by-hand",
            Reference,
            Caller::MultiplexByHand,
        ),
        ("calls-multiplex", Ours, Caller::Multiplex),
        ("calls-none", Reference, Caller::Loop),
    ];
    each_at_once(callers, |(name, standing, caller), tasks| {
        Scenario::new(format!("{name}-{tasks}"), standing, move |calls| {
            let [tasks, calls] = [tasks, calls].map(|n| usize::try_from(n).expect("a few"));
            caller.run(tasks, calls);
        })
    })
}

/// The delivery of a broadcast to one of its connections.
fn broadcasts() -> impl Iterator<Item = Scenario> {
    let kinds = [
        ("broadcast-by-hand", Reference, Kind::Buffers),
        ("broadcast-group", Ours, Kind::Group),
    ];
    kinds.into_iter().map(|(name, standing, kind)| {
        Scenario::new(name, standing, move |deliveries| {
            let connections = usize::try_from(CONNECTIONS).expect("a few");
            let crowd = Crowd::new(kind, Carrier::Sink, connections, 1024);
            crowd.broadcast(deliveries / CONNECTIONS, 1);
        })
    })
}

/// Each of `what` with many messages at once, then each with one.
fn each_at_once<T: Clone>(
    what: impl IntoIterator<Item = T>,
    scenario: impl Fn(T, u64) -> Scenario,
) -> impl Iterator<Item = Scenario> {
    let what: Vec<T> = what.into_iter().collect();
    AT_ONCE.into_iter().flat_map(move |at_once| {
        let scenarios: Vec<_> = what
            .iter()
            .cloned()
            .map(|it| scenario(it, at_once))
            .collect();
        scenarios
    })
}

/// A runtime on the calling thread.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the process may open descriptors")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_does_its_work() {
        let mut names = HashSet::new();
        for scenario in scenarios() {
            assert!(names.insert(scenario.name().to_owned()), "{scenario:?}");
            assert!(!scenario.name().contains(char::is_whitespace));
            scenario.run(100);
        }
    }
}
