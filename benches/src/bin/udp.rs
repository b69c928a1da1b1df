//! Compares UDP echo servers under the same load. Each runs in a child process. `--help` lists
//! the options.

use std::{
    io,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use getty::BoxError;
use getty_benches::{
    affinity,
    child::Placement,
    cli::{self, at_least_one, millis, pairs, unknown},
    compare::{Case, Group, print_heading, take_turns},
    load::{Shape, UdpLoad},
    measure::memory,
    server::{
        self,
        udp::{self, EXPIRY, Kind},
    },
};

const USAGE: &str = "\
usage: udp [--pin] [--servers A,B,..] [--cases A,B,..] [--rounds N] [--millis N] [--workers N]
           [--peers N]

  --pin        places the load on one processor and the servers on the others
  --servers    only these servers, and the two references
  --cases      peers x datagrams in flight x payload bytes, for example 50x16x64
  --rounds     measurements of each server in each case; the default is 9
  --millis     duration of a measurement, after 250 ms of warm-up; the default is 600
  --workers    threads of each server; the default is 2
  --peers      measures no load, but the memory of this number of peers: after one echo each, and
               after they have expired
";

fn main() -> ExitCode {
    cli::run("udp", USAGE, |options| {
        if let Some(served) = server::run_as_child(options) {
            return Ok(served?);
        }
        Plan::parse(options)?.run()
    })
}

struct Plan {
    servers: Vec<Kind>,
    cases: Vec<Shape>,
    rounds: usize,
    duration: Duration,
    workers: usize,
    placement: Placement,
    /// Number of peers whose memory is measured. Zero if a load is measured instead.
    peers: usize,
}

impl Plan {
    fn parse(options: &[&str]) -> Result<Self, BoxError> {
        let mut plan = Self {
            servers: Kind::ALL.to_vec(),
            cases: shapes("1x1x64,4x1x64,50x1x64,8x16x64,50x64x64,1x64x1024")?,
            rounds: 9,
            duration: Duration::from_millis(600),
            workers: 2,
            placement: Placement::Anywhere,
            peers: 0,
        };
        for (option, value) in pairs(options, &["--pin"], USAGE)? {
            match option {
                "--pin" => plan.placement = Placement::Apart,
                "--servers" => {
                    plan.servers = vec![Kind::Hand, Kind::HandMmsg];
                    for name in value.split(',') {
                        let kind = Kind::from_name(name)?;
                        if !plan.servers.contains(&kind) {
                            plan.servers.push(kind);
                        }
                    }
                }
                "--cases" => plan.cases = shapes(value)?,
                "--rounds" => plan.rounds = at_least_one(option, value)?,
                "--millis" => plan.duration = millis(option, value)?,
                "--workers" => plan.workers = at_least_one(option, value)?,
                "--peers" => plan.peers = at_least_one(option, value)?,
                _ => return Err(unknown(option, USAGE)),
            }
        }
        Ok(plan)
    }

    fn run(&self) -> Result<(), BoxError> {
        if self.peers > 0 {
            return Ok(print_memory(self.peers, self.workers)?);
        }
        if self.placement == Placement::Apart {
            affinity::keep_to_one()?;
        }
        print_heading(Group::Udp);
        let names: Vec<&str> = self.servers.iter().map(|kind| kind.name()).collect();
        let mut failures = Vec::new();
        for &shape in &self.cases {
            let case = Case::Datagrams(shape);
            let references = Group::Udp.references();
            let (measured, failed) = take_turns(case, &names, references, self.rounds, |index| {
                let kind = self.servers[index];
                udp::measure(kind, self.placement, self.workers, shape, self.duration)
            });
            print!("{measured}");
            failures.extend(failed);
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("\n").into())
        }
    }
}

fn shapes(cases: &str) -> Result<Vec<Shape>, BoxError> {
    cases.split(',').map(Shape::of_datagrams).collect()
}

/// Measures and prints the resident memory of peers before and after they expire.
#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn print_memory(peers: usize, workers: usize) -> io::Result<()> {
    let server = udp::start(Kind::Getty, Placement::Anywhere, workers)?;
    let open = |connections| {
        let shape = Shape {
            connections,
            in_flight: 1,
            payload: 64,
        };
        UdpLoad::open(server.address(), shape)
    };
    open(100)?.echo_once()?;
    let before = memory::resident(server.pid())?;
    let start = Instant::now();
    let mut load = open(peers)?;
    load.echo_once()?;
    let elapsed = start.elapsed();
    thread::sleep(Duration::from_millis(300));
    let after = memory::resident(server.pid())?;
    println!(
        "{peers} peers received an answer in {elapsed:?}; {:.0} resident bytes a peer",
        (after as f64 - before as f64) / peers as f64
    );
    thread::sleep(EXPIRY * 2);
    let expired = memory::resident(server.pid())?;
    println!(
        "{:.0} resident bytes a peer remain after the peers have expired",
        (expired as f64 - before as f64) / peers as f64
    );
    load.echo_once()?;
    println!("all peers received another answer");
    Ok(())
}
