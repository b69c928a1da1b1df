//! The comparison of servers: cases, rounds, tables and targets.
//!
//! `bin/compare.rs` is its command line. `benches/README.md` explains the tables.

mod candidate;
mod case;
mod echo;
mod idle;
mod in_memory;
mod peers;
mod plan;
mod rounds;
mod summary;
mod targets;
mod udp;

use std::{io, time::Instant};

use getty::BoxError;

pub use self::{
    candidate::Candidate,
    case::Case,
    peers::Peer,
    plan::{Plan, USAGE},
    rounds::{Measured, print_heading, take_turns},
};
use self::{idle::Idle, summary::Summary};
use crate::{affinity, child::Placement, measure::machine, server::Protocol};

/// Cases with the same contestants and the same references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Echo servers of one protocol over TCP. Each runs in a child process.
    Echo(Protocol),
    /// Echo servers over UDP. Each runs in a child process.
    Udp,
    /// Senders of one message to many members in memory.
    Broadcast,
    /// Clients that make calls in memory.
    Calls,
}

impl Group {
    /// All groups in the order of the tables.
    pub const ALL: [Self; 5] = [
        Self::Echo(Protocol::Length),
        Self::Echo(Protocol::WebSocket),
        Self::Udp,
        Self::Broadcast,
        Self::Calls,
    ];

    /// Returns the contestants to which ratios are formed.
    #[must_use]
    pub const fn references(self) -> &'static [&'static str] {
        match self {
            // The hand-written loop and the nearest approximation of the kernel's own cost.
            Self::Echo(Protocol::Length) => &["tokio-8k", "epoll"],
            // The cheaper of the two depends on the case.
            Self::Echo(Protocol::WebSocket) => &["ws-send", "ws-forward"],
            // One datagram for each system call and several.
            Self::Udp => &["hand", "hand-mmsg"],
            Self::Broadcast => &["hand-written, buffers", "hand-written, one task"],
            Self::Calls => &["by hand"],
        }
    }

    /// Returns the references that are measured twice in each round.
    #[must_use]
    pub fn repeated(self) -> &'static [&'static str] {
        &self.references()[..1]
    }

    /// Returns the unit of the figures in singular and plural.
    #[must_use]
    pub const fn unit(self) -> [&'static str; 2] {
        match self {
            Self::Echo(_) => ["message", "messages"],
            Self::Udp => ["datagram", "datagrams"],
            Self::Broadcast => ["delivery", "deliveries"],
            Self::Calls => ["call", "calls"],
        }
    }
}

/// All results of a run.
#[derive(Debug, Default)]
struct Results {
    measured: Vec<Measured>,
    idle: Vec<Idle>,
    /// Reasons why contestants were left out.
    failures: Vec<String>,
}

/// Runs the comparison and prints its tables.
///
/// # Errors
///
/// If a server cannot be measured. The error is returned after all other measurements.
pub fn run(plan: &Plan) -> Result<(), BoxError> {
    machine::raise_open_files()?;
    println!("{}\n", machine::describe());
    let candidates = plan.candidates()?;
    // Must follow the build of the peers, which may use all processors.
    if plan.placement == Placement::Apart {
        affinity::keep_to_one()?;
    }
    let start = Instant::now();
    let mut results = Results::default();
    for group in Group::ALL {
        results.measure(group, &candidates, plan)?;
    }
    println!("{}", targets::verdicts(&results));
    println!(
        "{} rounds of {:?}, {:.0?} in all.",
        plan.rounds,
        plan.duration,
        start.elapsed()
    );
    if results.failures.is_empty() {
        Ok(())
    } else {
        Err(results.failures.join("\n").into())
    }
}

impl Results {
    /// Measures the cases of one group and prints their tables.
    fn measure(&mut self, group: Group, all: &[Candidate], plan: &Plan) -> io::Result<()> {
        let cases = plan.cases.iter().filter(|case| case.group() == group);
        let (idle, cases): (Vec<Case>, Vec<Case>) =
            cases.partition(|case| matches!(case, Case::Idle(_)));
        if idle.is_empty() && cases.is_empty() {
            return Ok(());
        }
        let candidates: Vec<&Candidate> = all
            .iter()
            .filter(|candidate| Group::Echo(candidate.protocol()) == group)
            .collect();
        let mut summary = Summary::new(group);
        if !cases.is_empty() {
            print_heading(group);
        }
        for case in cases {
            let (measured, failures) = match case {
                Case::Echo(_, shape) => echo::compare(case, shape, &candidates, plan),
                Case::Datagrams(shape) => udp::compare(case, shape, plan),
                Case::Broadcast(members) => in_memory::broadcast(case, members, plan),
                Case::Calls { by_id, tasks } => in_memory::calls(case, by_id, tasks, plan),
                Case::Idle(_) => continue,
            };
            self.failures.extend(failures);
            print!("{measured}");
            summary.add(case, measured.medians());
            self.measured.push(measured);
        }
        for case in idle {
            println!("\n| case | server | resident bytes a connection |\n|---|---|--:|");
            let (idle, failures) = idle::compare(case, &candidates, plan);
            self.failures.extend(failures);
            print!("{idle}");
            summary.add(case, idle.medians());
            self.idle.push(idle);
        }
        println!("\n{summary}");
        Ok(())
    }
}
