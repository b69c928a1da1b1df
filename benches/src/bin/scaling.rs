//! Measures how the cost of a server grows with its connections. `--help` lists the options.

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use getty::BoxError;
use getty_benches::{
    affinity,
    child::{Placement, Server},
    cli::{self, at_least_one, millis, pairs, unknown},
    load::{self, Echoed, Shape, TcpLoad},
    measure::{Histogram, Quartiles, Sample, machine, memory, schedule},
    server::{self, Kind},
};

const USAGE: &str = "\
usage: scaling [--pin] [--tables A,B,..] [--servers A,B,..] [--connections N,M,..] [--rounds N]
               [--millis N]

  --pin          places the load on one processor and the servers on the others
  --tables       some of these tables:
                 one     one frame in flight on each connection
                 total   10,000 frames in flight, divided among the connections
                 ten     one frame in flight on each of ten connections, the others idle
                 churn   connections that are opened, used once and closed, beside others
                 uneven  2 to 50 connections, with 64 frames in flight on each
  --servers      servers to measure; the first is the reference
  --connections  numbers of connections in the first four tables
  --rounds       measurements of each server in each row; the default is 5
  --millis       duration of a measurement, after 250 ms of warm-up; the default is 500
";

/// Payload of a frame, in bytes.
const PAYLOAD: usize = 64;
/// Time in which a server closes the last connections of the `churn` table.
const SETTLE: Duration = Duration::from_millis(100);
/// Frames in flight over all connections, in the `total` table.
const TOTAL: usize = 10_000;
/// Number of busy connections in the `ten` table.
const BUSY: usize = 10;
/// Number of connections that the `churn` table opens at a time.
const BATCH: usize = 64;

fn main() -> ExitCode {
    cli::run("scaling", USAGE, |options| {
        if let Some(served) = server::run_as_child(options) {
            return Ok(served?);
        }
        Plan::parse(options)?.run()
    })
}

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

    fn from_name(name: &str) -> Result<Self, BoxError> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        let (_, table) = known.ok_or_else(|| format!("unknown table {name:?}"))?;
        Ok(*table)
    }

    const fn title(self) -> &'static str {
        match self {
            Self::One => "One frame in flight on each connection",
            Self::Total => "10,000 frames in flight, divided among the connections",
            Self::Ten => "One frame in flight on each of ten connections, the others idle",
            Self::Churn => "Connections opened, used once and closed, beside others that stay open",
            Self::Uneven => "Few connections, with 64 frames in flight on each",
        }
    }
}

/// One measurement of a server. In the `churn` table, a message is a connection.
#[derive(Clone, Debug)]
struct Measured {
    sample: Sample,
    /// Anonymous resident memory under load, in bytes.
    resident: u64,
}

impl Measured {
    fn micros(&self, quantile: f64) -> f64 {
        self.sample.latency.quantile(quantile).as_secs_f64() * 1e6
    }
}

#[derive(Clone, Debug)]
struct Plan {
    tables: Vec<Table>,
    servers: Vec<Kind>,
    connections: Vec<usize>,
    rounds: usize,
    duration: Duration,
    placement: Placement,
}

impl Plan {
    fn parse(options: &[&str]) -> Result<Self, BoxError> {
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
            placement: Placement::Anywhere,
        };
        for (option, value) in pairs(options, &["--pin"], USAGE)? {
            let values = value.split(',');
            match option {
                "--pin" => plan.placement = Placement::Apart,
                "--tables" => {
                    plan.tables = values.map(Table::from_name).collect::<Result<_, _>>()?;
                }
                "--servers" => {
                    let server = |name: &str| {
                        Kind::from_name(name).ok_or_else(|| format!("unknown server {name:?}"))
                    };
                    plan.servers = values.map(server).collect::<Result<_, _>>()?;
                }
                "--connections" => {
                    let number = |number| at_least_one(option, number);
                    plan.connections = values.map(number).collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = at_least_one(option, value)?,
                "--millis" => plan.duration = millis(option, value)?,
                _ => return Err(unknown(option, USAGE)),
            }
        }
        Ok(plan)
    }

    fn run(&self) -> Result<(), BoxError> {
        machine::raise_open_files()?;
        if self.placement == Placement::Apart {
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
            "| connections | server | {unit} | x {} | x the fewest | {rate} | p50 us | p99 us \
             | p99.9 us | resident KiB |",
            self.servers[0].name()
        );
        println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        let rows = match table {
            Table::Uneven => &[2, 4, 8, 50][..],
            _ => &self.connections,
        };
        let mut fewest: Vec<Option<f64>> = vec![None; self.servers.len()];
        for &connections in rows {
            let measured = self.measure(table, connections)?;
            for (index, fewest) in fewest.iter_mut().enumerate() {
                print!("| {connections} | {} ", self.servers[index].name());
                print_row(&measured[index], &measured[0], fewest, table);
            }
        }
        println!();
        Ok(())
    }

    /// Measures all servers. The result is ordered by server and then by round.
    fn measure(&self, table: Table, connections: usize) -> io::Result<Vec<Vec<Measured>>> {
        let mut measured = vec![Vec::new(); self.servers.len()];
        for (round, index) in schedule(self.rounds, self.servers.len()) {
            let kind = self.servers[index];
            eprintln!("{table:?} {connections} {} {}", kind.name(), round + 1);
            measured[index].push(self.measure_once(table, kind, connections)?);
        }
        Ok(measured)
    }

    fn measure_once(&self, table: Table, kind: Kind, connections: usize) -> io::Result<Measured> {
        let mut server = kind.start(self.placement)?;
        let mut load = open(&server, kind, connections)?;
        // Allocates what a connection will keep after its first frame.
        load.echo_once(0)?;
        let sample = match table {
            Table::Churn => {
                let (address, protocol) = (server.address(), kind.protocol());
                load::sample(&mut server, self.duration, |duration| {
                    churn(duration, || TcpLoad::open(address, protocol, shape(BATCH)))
                })?
            }
            _ => {
                match table {
                    Table::Total => load.start(TOTAL.div_ceil(connections) as u64)?,
                    Table::Ten => load.start_from(connections.saturating_sub(BUSY), 1)?,
                    Table::Uneven => load.start(64)?,
                    Table::One | Table::Churn => load.start(1)?,
                }
                load::sample(&mut server, self.duration, |duration| load.run(duration))?
            }
        };
        // Must be measured under load. Then it contains the memory between a read and a write.
        let resident = memory::resident(server.pid())?;
        Ok(Measured { sample, resident })
    }
}

fn open(server: &Server, kind: Kind, connections: usize) -> io::Result<TcpLoad> {
    TcpLoad::open(server.address(), kind.protocol(), shape(connections))
}

const fn shape(connections: usize) -> Shape {
    Shape {
        connections,
        in_flight: 1,
        payload: PAYLOAD,
    }
}

/// Opens connections, echoes a frame over each, and closes them.
///
/// Latency is the time of a batch divided by its connections.
fn churn(duration: Duration, mut open: impl FnMut() -> io::Result<TcpLoad>) -> io::Result<Echoed> {
    let batch = u32::try_from(BATCH).expect("a batch is small");
    let (start, mut latency, mut messages) = (Instant::now(), Histogram::default(), 0);
    while start.elapsed() < duration {
        let opened = Instant::now();
        open()?.echo_once(0)?;
        latency.record(opened.elapsed() / batch, 1);
        messages += u64::from(batch);
    }
    let elapsed = start.elapsed();
    // Closing the last connections is a part of their cost.
    std::thread::sleep(SETTLE);
    Ok(Echoed {
        messages,
        elapsed,
        latency,
    })
}

fn print_row(
    measured: &[Measured],
    reference: &[Measured],
    fewest: &mut Option<f64>,
    table: Table,
) {
    let median = |of: fn(&Measured) -> f64| {
        Quartiles::of(measured.iter().map(of)).map_or(0.0, |figures| figures.median)
    };
    let cpu = |of: &[Measured]| of.iter().map(|one| one.sample.cpu).collect::<Vec<_>>();
    let ratio = Quartiles::of_ratios(cpu(measured), cpu(reference));
    let ratio = ratio.map_or_else(String::new, |ratio| ratio.to_string());
    let cpu = median(|one| one.sample.cpu);
    let growth = cpu / *fewest.get_or_insert(cpu);
    let cpu = match table {
        Table::Churn => format!("{:.1}", cpu / 1e3),
        _ => format!("{cpu:.0}"),
    };
    println!(
        "| {cpu} | {ratio} | {growth:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
        median(|one| one.sample.rate),
        median(|one| one.micros(0.5)),
        median(|one| one.micros(0.99)),
        median(|one| one.micros(0.999)),
        median(resident_kib),
    );
}

#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn resident_kib(measured: &Measured) -> f64 {
    measured.resident as f64 / 1024.0
}
