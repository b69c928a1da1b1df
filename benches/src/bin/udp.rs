//! Compares UDP echo servers, each in a process of its own, under the same load: `--help` lists the options.

use std::{
    io,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use getty_benches::{
    affinity,
    child::Place,
    histogram::Histogram,
    load::Shape,
    memory,
    options::{at_least_one, millis, pairs},
    stats::Quartiles,
    udp::{self, COMMAND, EXPIRY, Figures, Kind, Load},
};

const USAGE: &str = "\
usage: udp [--pin] [--servers A,B,..] [--cases A,B,..] [--rounds N] [--millis N] [--workers N] [--peers N]

  --pin        the load on one processor and the servers on the others
  --servers    only these, beside the two references
  --cases      peers x datagrams in flight x payload bytes, as in 50x16x64
  --rounds     how often each server is measured on each case
  --millis     how long each of these takes, after a quarter of a second of warming up
  --workers    threads of each server; 2 by default
  --peers      instead: what so many peers keep resident after one echo each, and after they have expired
";

const WARM_UP: Duration = Duration::from_millis(250);
/// What the others are divided by, one by one and in bursts.
const REFERENCES: [Kind; 2] = [Kind::Hand, Kind::HandMmsg];

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [COMMAND, kind, place, workers] => udp::serve(kind, place, workers).map_err(Into::into),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ref options => Plan::parse(options).and_then(|plan| plan.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("udp: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    /// The references stand first and last, to show how far each is from itself.
    servers: Vec<Kind>,
    cases: Vec<Shape>,
    rounds: usize,
    duration: Duration,
    workers: usize,
    place: Place,
    peers: usize,
}

impl Plan {
    fn parse(options: &[&str]) -> Fallible<Self> {
        let mut plan = Self {
            servers: Kind::ALL.to_vec(),
            cases: shapes("1x1x64,4x1x64,50x1x64,8x16x64,50x64x64,1x64x1024")?,
            rounds: 9,
            duration: Duration::from_millis(600),
            workers: 2,
            place: Place::Anywhere,
            peers: 0,
        };
        for (option, value) in pairs(options, &["--pin"], USAGE)? {
            match option {
                "--pin" => plan.place = Place::Apart,
                "--servers" => {
                    plan.servers = REFERENCES.to_vec();
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
                _ => return Err(format!("there is no option {option}\n{USAGE}").into()),
            }
        }
        plan.servers.extend(REFERENCES);
        Ok(plan)
    }

    fn run(&self) -> Fallible<()> {
        if self.peers > 0 {
            return Ok(resident(self.peers, self.workers)?);
        }
        if self.place == Place::Apart {
            affinity::keep_to_one()?;
        }
        println!(
            "| case | server | CPU ns a datagram | x hand | x hand-mmsg | datagrams/s | p50 us | p99 us | p99.9 us | lost |"
        );
        println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        for shape in &self.cases {
            self.compare(*shape)?;
        }
        Ok(())
    }

    fn compare(&self, shape: Shape) -> io::Result<()> {
        let case = format!(
            "{}x{}x{}",
            shape.connections, shape.in_flight, shape.payload
        );
        let mut all: Vec<Vec<Figures>> = self.servers.iter().map(|_| Vec::new()).collect();
        for round in 0..self.rounds {
            for turn in 0..self.servers.len() {
                let index = (round + turn) % self.servers.len();
                let kind = self.servers[index];
                eprintln!("{case} {} {}/{}", kind.name(), round + 1, self.rounds);
                all[index].push(udp::measure(
                    kind,
                    self.place,
                    self.workers,
                    shape,
                    WARM_UP,
                    self.duration,
                )?);
            }
        }
        let first_again = self.servers.len() - REFERENCES.len();
        for (index, kind) in self.servers.iter().enumerate() {
            let again = if index < first_again { "" } else { ", again" };
            let median = |of: fn(&Figures) -> f64| {
                Quartiles::of(all[index].iter().map(of)).map_or(0.0, |figures| figures.median)
            };
            let ratio = |reference: usize| {
                let rounds = all[index].iter().zip(&all[reference]);
                Quartiles::of(rounds.map(|(mine, others)| mine.cpu / others.cpu))
                    .map_or_else(String::new, |ratio| ratio.to_string())
            };
            let mut latency = Histogram::default();
            for figures in &all[index] {
                latency.merge(&figures.latency);
            }
            let micros = |quantile| latency.quantile(quantile).as_secs_f64() * 1e6;
            println!(
                "| {case} | {}{again} | {:.0} | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
                kind.name(),
                median(|figures| figures.cpu),
                ratio(0),
                ratio(1),
                median(|figures| figures.rate),
                micros(0.5),
                micros(0.99),
                micros(0.999),
                all[index].iter().map(|figures| figures.lost).sum::<u64>(),
            );
        }
        Ok(())
    }
}

fn shapes(cases: &str) -> Fallible<Vec<Shape>> {
    cases.split(',').map(Shape::of_datagrams).collect()
}

/// What peers keep resident, and what is left of that after they have expired.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn resident(peers: usize, workers: usize) -> io::Result<()> {
    let server = udp::start(Kind::Getty, Place::Anywhere, workers)?;
    let open = |connections| {
        let shape = Shape {
            connections,
            in_flight: 1,
            payload: 64,
        };
        Load::open(server.address(), shape)
    };
    open(100)?.echo_once()?;
    let before = memory::resident(server.pid())?;
    let start = Instant::now();
    let mut load = open(peers)?;
    load.echo_once()?;
    let took = start.elapsed();
    thread::sleep(Duration::from_millis(300));
    let after = memory::resident(server.pid())?;
    println!(
        "{peers} peers, each answered, in {took:?}; {:.0} resident bytes a peer",
        (after as f64 - before as f64) / peers as f64
    );
    thread::sleep(EXPIRY * 2);
    let expired = memory::resident(server.pid())?;
    println!(
        "after their expiry {:.0} resident bytes a peer are left",
        (expired as f64 - before as f64) / peers as f64
    );
    load.echo_once()?;
    println!("and all of them were answered again");
    Ok(())
}
