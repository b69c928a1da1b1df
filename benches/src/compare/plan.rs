//! What is to be compared, as the command line says.

use std::{env, error::Error, io, time::Duration};

use super::{
    Candidate, Case, Group,
    peers::{self, Peer},
};
use crate::{
    child::Place,
    options::{at_least_one, millis, pairs},
    server::{Kind, Protocol},
};

/// What `--help` says.
pub const USAGE: &str = "\
usage: compare [--quick] [--pin] [--no-peers] [--servers A,B,..] [--cases A,B,..] [--rounds N] [--millis N]

  --quick      three servers on three loads, and idle, in two minutes
  --pin        the load on one processor and the servers on the others
  --no-peers   without the servers of benches/peers, which have to be built and downloaded first
  --servers    only these, beside the reference; a name that there is not tells those that there are
  --cases      connections x frames in flight x payload bytes, as in 50x64x64, or idle; over WebSocket ws-50x64x64 or
               ws-idle; in datagrams udp-8x16x64; one message to many members, broadcast-1000; calls by so many tasks
               that share a connection, calls-50, or calls-by-id-50
  --rounds     how often each server is measured on each case, 7 by default; odd numbers have a median of their own,
               and fewer than 5 no verdict
  --millis     how long each of these takes, after a quarter of a second of warming up; 300 by default
";

/// What is compared, and how often and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// This crate's own servers.
    pub servers: Vec<Kind>,
    /// Those of others.
    pub peers: Vec<Peer>,
    /// The loads that they are put under.
    pub cases: Vec<Case>,
    /// How often each is measured.
    pub rounds: usize,
    /// How long each of these takes.
    pub duration: Duration,
    /// Where the servers run.
    pub place: Place,
}

impl Plan {
    /// Everything.
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
            place: Place::Anywhere,
        }
    }

    /// What can be had in two minutes.
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

    /// What these options say.
    ///
    /// # Errors
    ///
    /// If there is no such option, server or case, or a number is none.
    pub fn parse(options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut plan = if options.contains(&"--quick") {
            Self::quick()
        } else {
            Self::full()
        };
        for (option, value) in pairs(options, &["--quick", "--pin", "--no-peers"], USAGE)? {
            match option {
                "--quick" => {}
                "--pin" => plan.place = Place::Apart,
                "--no-peers" => plan.peers.clear(),
                "--servers" => plan.choose(value)?,
                "--cases" => {
                    plan.cases = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = at_least_one(option, value)?,
                "--millis" => plan.duration = millis(option, value)?,
                _ => return Err(format!("there is no option {option}\n{USAGE}").into()),
            }
        }
        Ok(plan)
    }

    /// Only these, beside what they are divided by.
    fn choose(&mut self, names: &str) -> Result<(), Box<dyn Error>> {
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
                return Err(format!("there is no server {name:?} among {own}, {peers}").into());
            }
        }
        Ok(())
    }

    /// The servers that the cases need. Peers are built here, and those that cannot be are missing.
    ///
    /// # Errors
    ///
    /// If this program cannot tell where it is.
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
            println!("Without {}: not to be built.\n", missing.join(", "));
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
    fn no_rounds_and_no_time_are_refused() {
        for option in ["--rounds", "--millis"] {
            let refused = Plan::parse(&[option, "0"]).unwrap_err();
            assert!(refused.to_string().contains(option), "{refused}");
        }
    }

    #[test]
    fn the_quick_one_builds_no_peers() {
        let plan = Plan::parse(&["--quick"]).unwrap();
        assert_eq!(plan.peers, []);
        assert_eq!(plan.servers.len(), 3);
    }

    #[test]
    fn chosen_servers_have_their_references_and_peers_are_among_them() {
        let plan = Plan::parse(&["--servers", "getty,ntex,getty", "--rounds", "3"]).unwrap();
        assert_eq!(plan.servers, [Kind::Tokio8K, Kind::WsSend, Kind::Getty]);
        assert_eq!(plan.peers, [Peer::Ntex]);
        assert_eq!(plan.rounds, 3);
    }

    #[test]
    fn what_is_not_there_is_refused() {
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
