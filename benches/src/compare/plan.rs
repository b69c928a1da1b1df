//! The plan of a comparison. It comes from the command line.

use std::{env, io, time::Duration};

use getty::BoxError;

use super::{
    Candidate, Case, Group,
    peers::{self, Peer},
};
use crate::{
    child::Placement,
    cli::{at_least_one, millis, pairs, unknown},
    server::{Kind, Protocol},
};

/// Text of `--help`.
pub const USAGE: &str = "\
usage: compare [--quick] [--pin] [--no-peers] [--servers A,B,..] [--cases A,B,..] [--rounds N]
               [--millis N]

  --quick      measures three servers in three cases, and idle, in two minutes
  --pin        places the load on one processor and the servers on the others
  --no-peers   leaves out the servers of benches/peers, which must be downloaded and built first
  --servers    only these servers, and the references; an unknown name prints all names
  --cases      only these cases:
               50x64x64        connections x frames in flight x payload bytes
               idle            memory of idle connections
               ws-50x64x64     the same over WebSocket; also ws-idle
               udp-8x16x64     datagrams: peers x datagrams in flight x payload bytes
               broadcast-1000  one message to this number of members
               calls-50        calls from this number of tasks that share a connection
               calls-by-id-50  the same, with responses that are matched by an id
  --rounds     measurements of each server in each case; the default is 7. An odd number has a
               median without interpolation, and fewer than 5 rounds give no verdict
  --millis     duration of a measurement, after 250 ms of warm-up; the default is 300
";

/// Contestants and cases of a comparison with the number and duration of measurements.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers of this crate.
    pub servers: Vec<Kind>,
    /// Peers.
    pub peers: Vec<Peer>,
    /// Loads under which the servers are measured.
    pub cases: Vec<Case>,
    /// Number of measurements of each server.
    pub rounds: usize,
    /// Duration of a measurement.
    pub duration: Duration,
    /// Processors on which the servers run.
    pub placement: Placement,
}

impl Plan {
    /// Returns the plan with all servers and cases.
    #[must_use]
    pub fn full() -> Self {
        let mut cases = vec![
            Case::echo(1, 1, 64),
            Case::echo(50, 1, 64),
            Case::echo(50, 64, 64),
            Case::echo(50, 64, 1024),
            Case::echo(8, 16, 65_536),
            Case::echo(1000, 8, 64),
            Case::Idle(Protocol::Length),
            Case::echo(50, 1, 64).over_websocket(),
            Case::echo(50, 64, 64).over_websocket(),
            Case::Idle(Protocol::WebSocket),
        ];
        cases.extend(
            [(4, 1), (50, 1), (8, 16)]
                .map(|(peers, in_flight)| Case::echo(peers, in_flight, 64).over_udp()),
        );
        cases.extend([1_000, 10_000].map(Case::Broadcast));
        for by_id in [false, true] {
            cases.extend([50, 1].map(|tasks| Case::Calls { by_id, tasks }));
        }
        Self {
            servers: Kind::ALL.to_vec(),
            peers: Peer::ALL.to_vec(),
            cases,
            rounds: 7,
            duration: Duration::from_millis(300),
            placement: Placement::Anywhere,
        }
    }

    /// Returns a plan that takes two minutes.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            servers: vec![Kind::Tokio8K, Kind::Getty, Kind::Epoll],
            peers: Vec::new(),
            cases: vec![
                Case::echo(50, 64, 64),
                Case::echo(50, 64, 1024),
                Case::echo(50, 1, 64),
                Case::Idle(Protocol::Length),
            ],
            rounds: 9,
            duration: Duration::from_millis(400),
            ..Self::full()
        }
    }

    /// Parses the options of the command line.
    ///
    /// # Errors
    ///
    /// If an option, a server or a case is unknown. If a number is invalid.
    pub fn parse(options: &[&str]) -> Result<Self, BoxError> {
        let mut plan = if options.contains(&"--quick") {
            Self::quick()
        } else {
            Self::full()
        };
        for (option, value) in pairs(options, &["--quick", "--pin", "--no-peers"], USAGE)? {
            match option {
                "--quick" => {}
                "--pin" => plan.placement = Placement::Apart,
                "--no-peers" => plan.peers.clear(),
                "--servers" => plan.choose(value)?,
                "--cases" => {
                    plan.cases = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = at_least_one(option, value)?,
                "--millis" => plan.duration = millis(option, value)?,
                _ => return Err(unknown(option, USAGE)),
            }
        }
        Ok(plan)
    }

    /// Selects servers and peers by name and adds the references.
    fn choose(&mut self, names: &str) -> Result<(), BoxError> {
        self.peers.clear();
        self.servers = [Protocol::Length, Protocol::WebSocket]
            .into_iter()
            .filter_map(|protocol| Kind::from_name(Group::Echo(protocol).references()[0]))
            .collect();
        for name in names.split(',') {
            if let Some(kind) = Kind::from_name(name) {
                if !self.servers.contains(&kind) {
                    self.servers.push(kind);
                }
            } else if let Some(peer) = Peer::from_name(name) {
                self.peers.push(peer);
            } else {
                let own = Kind::ALL.map(Kind::name).join(", ");
                let peers = Peer::ALL.map(Peer::name).join(", ");
                return Err(
                    format!("unknown server {name:?}; known servers: {own}, {peers}").into(),
                );
            }
        }
        Ok(())
    }

    /// Returns the servers that the cases need. Builds the peers and leaves out those that cannot
    /// be built.
    ///
    /// # Errors
    ///
    /// If the path of this program is unknown.
    pub fn candidates(&self) -> io::Result<Vec<Candidate>> {
        let program = env::current_exe()?;
        let needed = |protocol| {
            let group = Group::Echo(protocol);
            self.cases.iter().any(|case| case.group() == group)
        };
        let own = self
            .servers
            .iter()
            .map(|&kind| Candidate::own(kind, &program));
        let mut wanted = self.peers.clone();
        wanted.retain(|peer| needed(peer.protocol()));
        let peers = peers::build(&wanted);
        wanted.retain(|peer| peers.iter().all(|(built, _)| built != peer));
        if !wanted.is_empty() {
            let missing: Vec<&str> = wanted.into_iter().map(Peer::name).collect();
            println!(
                "Left out, because they cannot be built: {}.\n",
                missing.join(", ")
            );
        }
        let peers = peers
            .into_iter()
            .map(|(peer, program)| Candidate::peer(peer, program));
        Ok(own.chain(peers).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_rounds_and_zero_time_are_refused() {
        for option in ["--rounds", "--millis"] {
            let refused = Plan::parse(&[option, "0"]).unwrap_err();
            assert!(refused.to_string().contains(option), "{refused}");
        }
    }

    #[test]
    fn quick_plan_builds_no_peers() {
        let plan = Plan::parse(&["--quick"]).unwrap();
        assert_eq!(plan.peers, []);
        assert_eq!(plan.servers.len(), 3);
    }

    #[test]
    fn chosen_servers_include_references_and_peers() {
        let plan = Plan::parse(&["--servers", "getty,ntex,getty", "--rounds", "3"]).unwrap();
        assert_eq!(plan.servers, [Kind::Tokio8K, Kind::WsSend, Kind::Getty]);
        assert_eq!(plan.peers, [Peer::Ntex]);
        assert_eq!(plan.rounds, 3);
    }

    #[test]
    fn unknown_or_invalid_options_are_refused() {
        for options in [
            &["--servers", "netty"][..],
            &["--cases", "50x64"],
            &["--rounds"],
            &["--slow", "1"],
            &["--rounds", "0"],
            &["--millis", "0"],
            &["--cases", "0x1x64"],
            &["--cases", "1x0x64"],
            &["--cases", "1x1x99999999999"],
            &["--cases", "udp-1x1x70000"],
        ] {
            assert!(Plan::parse(options).is_err(), "{options:?}");
        }
    }
}
