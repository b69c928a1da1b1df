//! How what a server costs grows with its connections: `--help` lists the options.

use std::{
    error::Error,
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use getty_benches::{
    affinity,
    child::{Place, Server},
    load::{Load, Shape},
    machine, memory,
    options::{at_least_one, millis, pairs},
    server::Kind,
    stats::Quartiles,
};

const USAGE: &str = "\
usage: scaling [--pin] [--tables A,B,..] [--servers A,B,..] [--connections N,M,..] [--rounds N] [--millis N]

  --pin          the load on one processor and the servers on the others
  --tables       of these: one (one frame in flight on each connection), total (10,000 frames in flight, divided
                 among them), ten (one in flight on ten, the others idle), churn (connections opened, used once and
                 closed, beside those that stay), uneven (two to fifty connections, fully used)
  --servers      the first is what the others are compared with
  --connections  how many there are in the first four tables
  --rounds       how often each server is measured in each place
  --millis       how long each of these takes, after a quarter of a second of warming up
";

const PAYLOAD: usize = 64;
const WARM_UP: Duration = Duration::from_millis(250);
const SETTLE: Duration = Duration::from_millis(100);
/// Frames in flight over all connections, in the table with a fixed total; at 10,000 connections the first table's.
const TOTAL: usize = 10_000;
/// The busy connections, in the table where the others idle.
const BUSY: usize = 10;
/// Connections opened, and then closed, at a time.
const BATCH: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, place] => serve(kind, place),
        ["--help"] => {
            print!("{USAGE}");
            Ok(())
        }
        ref options => Plan::parse(options).and_then(|plan| plan.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scaling: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(kind: &str, place: &str) -> Result<(), Box<dyn Error>> {
    Ok(kind_of(kind)?.serve(Place::from_name(place)?)?)
}

fn kind_of(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| format!("there is no server {name:?}"))
}

/// What grows from one row to the next, and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    One,
    Total,
    Ten,
    Churn,
    Uneven,
}

impl Table {
    const ALL: [(&str, Self); 5] = [
        ("one", Self::One),
        ("total", Self::Total),
        ("ten", Self::Ten),
        ("churn", Self::Churn),
        ("uneven", Self::Uneven),
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::One => "One frame in flight on each connection",
            Self::Total => "10,000 frames in flight, divided among the connections",
            Self::Ten => "One frame in flight on each of ten connections, the others idle",
            Self::Churn => "Connections opened, used once and closed, beside those that stay open",
            Self::Uneven => "Few connections, with 64 frames in flight on each",
        }
    }
}

/// One server, measured once.
#[derive(Clone, Debug)]
struct Sample {
    /// CPU nanoseconds a message, or a connection.
    cpu: f64,
    /// Messages, or connections, a second.
    rate: f64,
    p50: Duration,
    p99: Duration,
    p999: Duration,
    /// Anonymous resident bytes while it runs.
    resident: f64,
}

#[derive(Clone, Debug)]
struct Plan {
    tables: Vec<Table>,
    servers: Vec<Kind>,
    connections: Vec<usize>,
    rounds: usize,
    duration: Duration,
    place: Place,
}

impl Plan {
    fn parse(options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut plan = Self {
            tables: Table::ALL.map(|(_, table)| table).to_vec(),
            servers: vec![
                Kind::Tokio8K,
                Kind::Getty,
                Kind::GettyFull,
                Kind::GettyPerCore,
                Kind::Epoll,
            ],
            connections: vec![10, 100, 1_000, 10_000],
            rounds: 5,
            duration: Duration::from_millis(500),
            place: Place::Anywhere,
        };
        for (option, value) in pairs(options, &["--pin"], USAGE)? {
            match option {
                "--pin" => plan.place = Place::Apart,
                "--tables" => {
                    plan.tables = value
                        .split(',')
                        .map(|name| {
                            let known = Table::ALL.iter().find(|(known, _)| *known == name);
                            known
                                .map(|&(_, table)| table)
                                .ok_or_else(|| format!("there is no table {name:?}"))
                        })
                        .collect::<Result<_, _>>()?;
                }
                "--servers" => {
                    plan.servers = value.split(',').map(kind_of).collect::<Result<_, _>>()?;
                }
                "--connections" => {
                    plan.connections = value
                        .split(',')
                        .map(|number| at_least_one(option, number))
                        .collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = at_least_one(option, value)?,
                "--millis" => plan.duration = millis(option, value)?,
                _ => return Err(format!("there is no option {option}\n{USAGE}").into()),
            }
        }
        Ok(plan)
    }

    fn run(&self) -> Result<(), Box<dyn Error>> {
        machine::raise_open_files()?;
        if self.place == Place::Apart {
            affinity::keep_to_one()?;
        }
        for &table in &self.tables {
            self.print(table)?;
        }
        Ok(())
    }

    fn print(&self, table: Table) -> io::Result<()> {
        println!("{}:\n", table.title());
        let (unit, rate) = match table {
            Table::Churn => ("CPU us a connection", "connections/s"),
            _ => ("CPU ns a message", "messages/s"),
        };
        println!(
            "| connections | server | {unit} | x {} | x the fewest | {rate} | p50 us | p99 us | p99.9 us | resident KiB |",
            self.servers[0].name()
        );
        println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        let rows = match table {
            Table::Uneven => &[2, 4, 8, 50][..],
            _ => &self.connections,
        };
        let mut fewest: Vec<Option<f64>> = vec![None; self.servers.len()];
        for &connections in rows {
            let samples = self.measure(table, connections)?;
            for (server, fewest) in fewest.iter_mut().enumerate() {
                print_row(
                    &self.servers,
                    connections,
                    &samples,
                    server,
                    fewest,
                    table == Table::Churn,
                );
            }
        }
        println!();
        Ok(())
    }

    /// By server, then by round.
    fn measure(&self, table: Table, connections: usize) -> io::Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); self.servers.len()];
        for round in 0..self.rounds {
            for turn in 0..self.servers.len() {
                // Each round begins with another server, lest one always follow the same neighbour.
                let index = (round + turn) % self.servers.len();
                let kind = self.servers[index];
                eprintln!("{table:?} {connections} {} {}", kind.name(), round + 1);
                samples[index].push(self.sample(table, kind, connections)?);
            }
        }
        Ok(samples)
    }

    fn sample(&self, table: Table, kind: Kind, connections: usize) -> io::Result<Sample> {
        let mut server = kind.start(self.place)?;
        let open = |connections| {
            let shape = Shape {
                connections,
                in_flight: 1,
                payload: PAYLOAD,
            };
            Load::open(server.address(), kind.protocol(), shape)
        };
        let mut load = open(connections)?;
        // Whatever a connection keeps after its first frame is there.
        load.echo_once(0)?;
        match table {
            Table::Churn => return self.churn(&mut server, kind, load),
            Table::One => load.start(1)?,
            Table::Total => load.start(TOTAL.div_ceil(connections) as u64)?,
            Table::Ten => load.start_from(connections.saturating_sub(BUSY), 1)?,
            Table::Uneven => load.start(64)?,
        }
        load.run(WARM_UP)?;
        let before = server.cpu()?;
        let echoed = load.run(self.duration)?;
        let used = server.cpu()? - before;
        // While it runs, so that what is in use between a read and a write counts.
        let resident = memory::resident(server.pid())?;
        Ok(Sample {
            cpu: per(used, echoed.messages),
            rate: rate(echoed.messages, echoed.elapsed),
            p50: echoed.latency.quantile(0.5),
            p99: echoed.latency.quantile(0.99),
            p999: echoed.latency.quantile(0.999),
            resident: as_f64(resident),
        })
    }

    /// Opens connections, echoes a frame over each and closes them, while those of `staying` stay open.
    fn churn(&self, server: &mut Server, kind: Kind, staying: Load) -> io::Result<Sample> {
        let shape = Shape {
            connections: BATCH,
            in_flight: 1,
            payload: PAYLOAD,
        };
        let mut latency = Vec::new();
        let mut stretch = |server: &mut Server, duration| -> io::Result<(u64, u64, Duration)> {
            latency.clear();
            let (before, start, mut opened) = (server.cpu()?, Instant::now(), 0);
            while start.elapsed() < duration {
                let batch = Instant::now();
                let mut load = Load::open(server.address(), kind.protocol(), shape)?;
                load.echo_once(0)?;
                latency.push(batch.elapsed() / u32::try_from(BATCH).expect("a batch is small"));
                opened += BATCH as u64;
            }
            let elapsed = start.elapsed();
            // The last of them are being closed.
            std::thread::sleep(SETTLE);
            Ok((server.cpu()? - before, opened, elapsed))
        };
        stretch(server, WARM_UP)?;
        let (used, opened, elapsed) = stretch(server, self.duration)?;
        latency.sort();
        let quantile = |thousandths| latency[(latency.len() - 1) * thousandths / 1000];
        let resident = memory::resident(server.pid())?;
        drop(staying);
        Ok(Sample {
            cpu: per(used, opened),
            rate: rate(opened, elapsed),
            p50: quantile(500),
            p99: quantile(990),
            p999: quantile(999),
            resident: as_f64(resident),
        })
    }
}

fn print_row(
    servers: &[Kind],
    connections: usize,
    samples: &[Vec<Sample>],
    server: usize,
    fewest: &mut Option<f64>,
    micros: bool,
) {
    let mine = &samples[server];
    let figures = |of: fn(&Sample) -> f64| {
        Quartiles::of(mine.iter().map(of)).expect("every server is measured at least once")
    };
    // Round by round, so that what changes slowly on the machine cancels out.
    let ratio = Quartiles::of(
        mine.iter()
            .zip(&samples[0])
            .map(|(mine, first)| mine.cpu / first.cpu),
    );
    let cpu = figures(|sample| sample.cpu);
    let fewest = *fewest.get_or_insert(cpu.median);
    let shown = if micros {
        format!("{:.1}", cpu.median / 1e3)
    } else {
        format!("{:.0}", cpu.median)
    };
    println!(
        "| {connections} | {} | {shown} | {} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
        servers[server].name(),
        ratio.map_or_else(String::new, |ratio| ratio.to_string()),
        cpu.median / fewest,
        figures(|sample| sample.rate),
        figures(|sample| sample.p50.as_secs_f64() * 1e6).median,
        figures(|sample| sample.p99.as_secs_f64() * 1e6).median,
        figures(|sample| sample.p999.as_secs_f64() * 1e6).median,
        figures(|sample| sample.resident).median / 1024.0,
    );
}

fn per(used: u64, times: u64) -> f64 {
    as_f64(used) / as_f64(times)
}

fn rate(times: u64, elapsed: Duration) -> f64 {
    as_f64(times) / elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}
