//! The comparison: what is measured, how the servers take turns, and the tables that come of it.
//!
//! `bin/compare.rs` is its command line; README.md says how to read what it prints.

mod candidate;
mod case;
mod echo;
mod idle;
mod in_memory;
mod peers;
mod plan;
mod summary;
mod targets;
mod turns;
mod udp;

use std::{error::Error, io, time::Instant};

pub use self::{
    candidate::Candidate,
    case::Case,
    peers::Peer,
    plan::{Plan, USAGE},
    turns::{Measured, Sample},
};
use self::{idle::Idle, summary::Summary};
use crate::{affinity, child::Place, machine, server::Protocol};

/// Cases whose servers are measured in turns, and are divided by the same two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Servers of this protocol over TCP, each in a process of its own.
    Echo(Protocol),
    /// Servers of datagrams, each in a process of its own.
    Udp,
    /// Senders of one message to many members, in memory.
    Broadcast,
    /// Clients that call, in memory.
    Calls,
}

impl Group {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 5] = [
        Self::Echo(Protocol::Length),
        Self::Echo(Protocol::WebSocket),
        Self::Udp,
        Self::Broadcast,
        Self::Calls,
    ];

    /// What the others are divided by. The first is measured twice.
    #[must_use]
    pub const fn references(self) -> &'static [&'static str] {
        match self {
            // the loop that one would write by hand, and what the kernel alone takes, as nearly as one gets
            Self::Echo(Protocol::Length) => &["tokio-8k", "epoll"],
            // which of the two is the better depends on the case
            Self::Echo(Protocol::WebSocket) => &["ws-send", "ws-forward"],
            // one datagram a call, and many
            Self::Udp => &["hand", "hand-mmsg"],
            Self::Broadcast => &["hand-written, buffers", "hand-written, one task"],
            Self::Calls => &["by hand"],
        }
    }

    /// What the CPU time of a case is divided by: one of them, and many.
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

/// All that was found.
#[derive(Debug, Default)]
struct Results {
    measured: Vec<Measured>,
    idle: Vec<Idle>,
    /// What was left out because it did not work.
    failures: Vec<String>,
}

/// Measures what the plan says and prints the tables.
///
/// # Errors
///
/// If there are no servers to compare with, or one of them did not work: that is said once all others are done.
pub fn run(plan: &Plan) -> Result<(), Box<dyn Error>> {
    machine::raise_open_files()?;
    println!("{}\n", machine::describe());
    let candidates = plan.candidates()?;
    // only now: what was built before may use all processors
    if plan.place == Place::Apart {
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
    /// Measures the cases of one group, and prints their tables.
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
            turns::print_heading(group);
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
