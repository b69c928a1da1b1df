//! Scenarios whose instructions are counted and the use of the figures.

pub mod baseline;
pub mod callgrind;
mod codecs;
mod connections;
mod tls_and_udp;

use std::fmt;

use crate::workload::{
    broadcast::{Broadcast, Carrier, Kind},
    calls::Caller,
    cluster,
    echo::{Loop, Prepared},
    handlers,
    layers::{self, LayerStack},
    runtime,
};

/// Payload of a message, in bytes.
const PAYLOAD: usize = 64;
/// Number of messages in flight. With fifty, a figure shows the cost of a message. With one, it
/// shows the cost of a poll of the loop.
const AT_ONCE: [u64; 2] = [50, 1];
/// Number of connections of a broadcast.
const CONNECTIONS: u64 = 100;

/// Use of a scenario's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The figure must not exceed the baseline.
    Checked,
    /// The figure is only reported. It may contain code of other crates, or depend on the
    /// processor, on timing or on random hash keys.
    Reported,
}

use Policy::{Checked, Reported};

/// Repeatable work whose instructions are counted.
pub struct Scenario {
    name: String,
    policy: Policy,
    /// Repetitions in the short and in the long run.
    times: [u64; 2],
    work: Box<dyn Fn(u64) + Send + Sync>,
}

impl Scenario {
    /// Creates a scenario with 1,000 and 11,000 repetitions.
    fn new(
        name: impl Into<String>,
        policy: Policy,
        work: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            policy,
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

    /// Returns the name in tables, in the baseline and on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the use of the figure.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Returns the repetitions in the short and in the long run.
    #[must_use]
    pub const fn times(&self) -> [u64; 2] {
        self.times
    }

    /// Does the work a number of times.
    pub fn run(&self, times: u64) {
        (self.work)(times);
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Returns all scenarios in the order of the table.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(loops());
    all.extend(tls_and_udp::scenarios());
    all.extend(layers());
    all.extend(calls());
    all.extend(broadcasts());
    all.extend(clusters());
    all.extend(connections::scenarios());
    all.extend(codecs::scenarios());
    all
}

/// A message through a whole loop.
fn loops() -> impl Iterator<Item = Scenario> {
    let loops = [
        ("by-hand", Reported, Loop::ByHand),
        ("codec", Reported, Loop::Codec),
        ("getty", Checked, Loop::Getty),
        ("getty-bytes", Checked, Loop::GettyBytes),
        ("getty-tower", Checked, Loop::GettyTower),
        ("getty-full", Checked, Loop::GettyFull),
        ("ws-send", Reported, Loop::WsSend),
        ("ws-getty", Checked, Loop::WsGetty),
    ];
    each_at_once(loops, |(name, policy, kind), at_once| {
        Scenario::new(format!("{name}-{at_once}"), policy, move |messages| {
            let frames = usize::try_from(at_once).expect("the number is small");
            Prepared::new(kind, frames, PAYLOAD, messages / at_once).scripted();
        })
    })
}

/// A message through each layer and through several layers that only forward.
fn layers() -> impl Iterator<Item = Scenario> {
    let of = |policy| move |(name, stack): LayerStack| (format!("layer-{name}"), policy, stack);
    let alone = [layers::NONE]
        .into_iter()
        .chain(layers::all())
        .map(of(Checked));
    let tower = layers::TOWER.into_iter().map(of(Reported));
    let depths = layers::DEPTHS
        .into_iter()
        .map(|(name, stack)| (name.to_owned(), Checked, stack));
    let handlers = handlers::HANDLERS
        .into_iter()
        .map(|(name, stack)| (format!("handler-{name}"), Checked, stack));
    let routes = handlers::ROUTES
        .into_iter()
        .map(|(name, stack)| (format!("routes-{name}"), Checked, stack));
    let stacks = alone
        .chain(tower)
        .chain(depths)
        .chain(handlers)
        .chain(routes);
    each_at_once(stacks, |(name, policy, stack), at_once| {
        Scenario::new(format!("{name}-{at_once}"), policy, move |messages| {
            let frames = usize::try_from(at_once).expect("the number is small");
            stack().echo(&runtime(), frames, PAYLOAD, messages / at_once);
        })
    })
}

/// A call and its response. Each call is made by a task that waits for it.
fn calls() -> impl Iterator<Item = Scenario> {
    let callers = [
        ("calls-pipeline-by-hand", Reported, Caller::PipelineByHand),
        ("calls-pipeline", Checked, Caller::Pipeline),
        ("calls-multiplex-by-hand", Reported, Caller::MultiplexByHand),
        ("calls-multiplex", Checked, Caller::Multiplex),
        ("calls-none", Reported, Caller::Loop),
    ];
    each_at_once(callers, |(name, policy, caller), tasks| {
        Scenario::new(format!("{name}-{tasks}"), policy, move |calls| {
            let [tasks, calls] =
                [tasks, calls].map(|n| usize::try_from(n).expect("the number is small"));
            caller.run(tasks, calls);
        })
    })
}

/// One delivery of a broadcast.
fn broadcasts() -> impl Iterator<Item = Scenario> {
    let kinds = [
        ("broadcast-by-hand", Reported, Kind::Buffers),
        ("broadcast-group", Checked, Kind::Group),
    ];
    kinds.into_iter().map(|(name, policy, kind)| {
        Scenario::new(name, policy, move |deliveries| {
            let connections = usize::try_from(CONNECTIONS).expect("the number is small");
            let broadcast = Broadcast::new(kind, Carrier::Sink, connections, 1024);
            broadcast.send(deliveries / CONNECTIONS, 1);
        })
    })
}

/// A message with a cluster and without one, whose bus has no server.
fn clusters() -> impl Iterator<Item = Scenario> {
    cluster::Kind::ALL.into_iter().map(|kind| {
        Scenario::new(kind.name(), Checked, move |messages| {
            let messages = usize::try_from(messages).expect("the number is small");
            cluster::Node::new(kind).run(messages);
        })
    })
}

/// Creates two scenarios for each item: one with many messages in flight and one with a single
/// message.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scenarios_have_unique_names_and_run() {
        let mut names = HashSet::new();
        for scenario in scenarios() {
            assert!(names.insert(scenario.name().to_owned()), "{scenario:?}");
            assert!(!scenario.name().contains(char::is_whitespace));
            scenario.run(100);
        }
    }
}
