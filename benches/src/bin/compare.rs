//! Compares echo servers, each in a process of its own, under the same load: `--help` lists the options.

use std::{
    error::Error,
    fmt, fs, io,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use getty_benches::{
    affinity,
    child::{self, Place, Server},
    histogram::Histogram,
    load::{Load, Shape},
    memory,
    server::{Kind, Protocol},
    stats::Quartiles,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "\
usage: compare [--quick] [--pin] [--servers A,B,..] [--cases A,B,..] [--rounds N] [--millis N]

  --quick      three servers on three cases, in two minutes
  --pin        the load on one processor and the servers on the others
  --servers    only these, beside the reference
  --cases      connections x frames in flight x payload bytes, as in 50x64x64, or idle; of the WebSocket servers
               ws-50x64x64, or ws-idle
  --rounds     how often each server is measured on each case; odd numbers have a median of their own
  --millis     how long each of these takes, after a quarter of a second of warming up
";

/// What the others are divided by: the hand-written loop.
const REFERENCE: Kind = Kind::Tokio8K;
/// What they are divided by as well: what the kernel alone takes, as nearly as one gets.
const FLOOR: Kind = Kind::Epoll;

/// The two that the servers of a protocol are divided by.
const fn references(protocol: Protocol) -> [Kind; 2] {
    match protocol {
        Protocol::Length => [REFERENCE, FLOOR],
        // which of the two is the better depends on the case
        Protocol::WebSocket => [Kind::WsSend, Kind::WsForward],
    }
}

const WARM_UP: Duration = Duration::from_millis(250);
/// Connections that are open before the memory of the others is measured: by then what a server allocates once is.
const OPEN_BEFORE: usize = 100;
/// How long an idle server has to give back what it can.
const SETTLE: Duration = Duration::from_millis(300);
const IDLE_ROUNDS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, place] => serve(kind, place),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ref options => Plan::parse(options).and_then(|plan| compare(&plan)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(kind: &str, place: &str) -> Result<(), Box<dyn Error>> {
    let kind = Kind::from_name(kind).ok_or_else(|| format!("there is no server {kind:?}"))?;
    let place = [Place::Anywhere, Place::Apart]
        .into_iter()
        .find(|known| known.name() == place)
        .ok_or_else(|| format!("there is no place {place:?}"))?;
    Ok(child::serve(kind, place)?)
}

/// One row of load that every server is put under.
#[derive(Clone, Copy, Debug)]
enum Case {
    Echo(Protocol, Shape),
    Idle(Protocol),
}

/// How many connections the idle case opens.
const IDLE: usize = 10_000;

impl Case {
    const fn echo(connections: usize, in_flight: u64, payload: usize) -> Self {
        let shape = Shape {
            connections,
            in_flight,
            payload,
        };
        Self::Echo(Protocol::Length, shape)
    }

    /// The same of WebSocket servers.
    const fn over_websocket(self) -> Self {
        match self {
            Self::Echo(_, shape) => Self::Echo(Protocol::WebSocket, shape),
            Self::Idle(_) => Self::Idle(Protocol::WebSocket),
        }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Echo(protocol, _) | Self::Idle(protocol) => protocol,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol() == Protocol::WebSocket {
            f.write_str("ws-")?;
        }
        match self {
            Self::Echo(_, shape) => write!(
                f,
                "{}x{}x{}",
                shape.connections, shape.in_flight, shape.payload
            ),
            Self::Idle(_) => f.write_str("idle"),
        }
    }
}

impl FromStr for Case {
    type Err = Box<dyn Error>;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if let Some(name) = name.strip_prefix("ws-") {
            return name.parse().map(Self::over_websocket);
        }
        if name == "idle" {
            return Ok(Self::Idle(Protocol::Length));
        }
        match name.split('x').collect::<Vec<_>>()[..] {
            [connections, in_flight, payload] => Ok(Self::echo(
                connections.parse()?,
                in_flight.parse()?,
                payload.parse()?,
            )),
            _ => Err(format!("{name:?} is neither like 50x64x64 nor idle").into()),
        }
    }
}

#[derive(Clone, Debug)]
struct Plan {
    servers: Vec<Kind>,
    cases: Vec<Case>,
    rounds: usize,
    duration: Duration,
    place: Place,
}

impl Plan {
    fn full() -> Self {
        Self {
            servers: Kind::ALL.to_vec(),
            cases: vec![
                Case::echo(1, 1, 64),
                Case::echo(50, 1, 64),
                Case::echo(50, 64, 64),
                Case::echo(50, 64, 1024),
                Case::echo(8, 16, 65_536),
                Case::Idle(Protocol::Length),
                Case::echo(50, 1, 64).over_websocket(),
                Case::echo(50, 64, 64).over_websocket(),
                Case::Idle(Protocol::WebSocket),
            ],
            rounds: 9,
            duration: Duration::from_millis(600),
            place: Place::Anywhere,
        }
    }

    fn quick() -> Self {
        Self {
            servers: vec![REFERENCE, Kind::Getty, FLOOR],
            cases: vec![
                Case::echo(50, 64, 64),
                Case::echo(50, 1, 64),
                Case::Idle(Protocol::Length),
            ],
            ..Self::full()
        }
    }

    fn parse(options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut plan = if options.contains(&"--quick") {
            Self::quick()
        } else {
            Self::full()
        };
        let mut options = options.iter();
        while let Some(&option) = options.next() {
            match option {
                "--quick" => continue,
                "--pin" => {
                    plan.place = Place::Apart;
                    continue;
                }
                _ => {}
            }
            let value = options
                .next()
                .ok_or_else(|| format!("{option} has no value\n{USAGE}"))?;
            match option {
                "--servers" => {
                    plan.servers = vec![REFERENCE, references(Protocol::WebSocket)[0]];
                    for name in value.split(',') {
                        let kind = Kind::from_name(name).ok_or_else(|| {
                            let names = Kind::ALL.map(Kind::name).join(", ");
                            format!("there is no server {name:?} among {names}")
                        })?;
                        if !plan.servers.contains(&kind) {
                            plan.servers.push(kind);
                        }
                    }
                }
                "--cases" => {
                    plan.cases = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = value.parse()?,
                "--millis" => plan.duration = Duration::from_millis(value.parse()?),
                _ => return Err(format!("there is no option {option}\n{USAGE}").into()),
            }
        }
        Ok(plan)
    }
}

fn compare(plan: &Plan) -> Result<(), Box<dyn Error>> {
    raise_open_files()?;
    println!("{}\n", machine());
    if plan.place == Place::Apart {
        affinity::keep_to_one()?;
    }
    let start = Instant::now();
    for protocol in [Protocol::Length, Protocol::WebSocket] {
        let mut cases = plan.cases.clone();
        cases.retain(|case| case.protocol() == protocol);
        if !cases.is_empty() {
            compare_all(&cases, protocol, plan)?;
        }
    }
    println!("{} rounds, {:?} in all.", plan.rounds, start.elapsed());
    Ok(())
}

/// The tables of one protocol.
fn compare_all(cases: &[Case], protocol: Protocol, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let mut plan = plan.clone();
    plan.servers.retain(|server| server.protocol() == protocol);
    let mut summary = Summary::default();
    // A heading of its own for either kind of table, and only when there is something below it.
    let mut heading = false;
    for case in cases {
        if let Case::Echo(_, shape) = *case {
            if !heading {
                let against = match protocol {
                    Protocol::Length => "x hand-written | x epoll",
                    Protocol::WebSocket => "x ws-send | x ws-forward",
                };
                println!(
                    "| case | server | CPU ns a message | {against} | messages/s | p50 us | p99 us | p99.9 us | peak MiB |"
                );
                println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
                heading = true;
            }
            summary.add(case, echo(case, shape, &plan)?);
        }
    }
    for case in cases {
        if let Case::Idle(_) = case {
            println!("\n| case | server | resident bytes a connection |\n|---|---|--:|");
            summary.add(case, idle(case, &plan)?);
        }
    }
    println!("\n{summary}");
    Ok(())
}

/// A server in the table; the reference stands there twice, to show how far a server is from itself.
struct Entry {
    kind: Kind,
    label: String,
    samples: Vec<Sample>,
}

struct Sample {
    cpu: f64,
    rate: f64,
    latency: Histogram,
    peak: u64,
}

/// Medians by server and case, in the order in which they came.
#[derive(Debug, Default)]
struct Summary {
    cases: Vec<String>,
    servers: Vec<(String, Vec<f64>)>,
}

impl Summary {
    fn add(&mut self, case: &Case, medians: Vec<(String, f64)>) {
        for (server, median) in medians {
            match self.servers.iter_mut().find(|(known, _)| *known == server) {
                Some((_, row)) => row.push(median),
                // A server is in all cases or, like the reference's second run, in all but the last.
                None => self.servers.push((server, vec![median])),
            }
        }
        self.cases.push(case.to_string());
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CPU ns a message; resident bytes an idle connection:\n")?;
        writeln!(f, "| server | {} |", self.cases.join(" | "))?;
        writeln!(f, "|---{}|", "|--:".repeat(self.cases.len()))?;
        for (server, row) in &self.servers {
            write!(f, "| {server} |")?;
            for median in row {
                write!(f, " {median:.0} |")?;
            }
            writeln!(f, "{}", " |".repeat(self.cases.len() - row.len()))?;
        }
        Ok(())
    }
}

fn echo(case: &Case, shape: Shape, plan: &Plan) -> io::Result<Vec<(String, f64)>> {
    let [reference, floor] = references(case.protocol());
    let mut entries: Vec<Entry> = plan
        .servers
        .iter()
        .map(|&kind| (kind, kind.name().to_owned()))
        .chain([(reference, format!("{}, again", reference.name()))])
        .map(|(kind, label)| Entry {
            kind,
            label,
            samples: Vec::new(),
        })
        .collect();
    for round in 0..plan.rounds {
        for turn in 0..entries.len() {
            // Each round begins with another server, lest one always follow the same neighbour.
            let index = (round + turn) % entries.len();
            let entry = &mut entries[index];
            eprintln!("{case} {} {}/{}", entry.label, round + 1, plan.rounds);
            entry.samples.push(sample(entry.kind, shape, plan)?);
        }
    }
    let reference = position(&entries, reference);
    let floor = position(&entries, floor);
    let mut medians = Vec::new();
    for entry in &entries {
        let against = |other: Option<usize>| match other {
            Some(other) => ratio(entry, &entries[other]),
            None => "-".to_owned(),
        };
        let figures = |of: fn(&Sample) -> f64| Quartiles::of(entry.samples.iter().map(of));
        if let Some(cpu) = figures(|sample| sample.cpu) {
            medians.push((entry.label.clone(), cpu.median));
        }
        let mut latency = Histogram::default();
        for sample in &entry.samples {
            latency.merge(&sample.latency);
        }
        let micros = |quantile| latency.quantile(quantile).as_secs_f64() * 1e6;
        println!(
            "| {case} | {} | {} | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
            entry.label,
            figures(|sample| sample.cpu).map_or_else(String::new, |cpu| format!("{cpu:.0}")),
            against(reference),
            against(floor),
            figures(|sample| sample.rate).map_or(0.0, |rate| rate.median),
            micros(0.5),
            micros(0.99),
            micros(0.999),
            mebibytes(
                entry
                    .samples
                    .iter()
                    .map(|sample| sample.peak)
                    .max()
                    .unwrap_or(0)
            ),
        );
    }
    Ok(medians)
}

fn position(entries: &[Entry], kind: Kind) -> Option<usize> {
    entries.iter().position(|entry| entry.kind == kind)
}

/// CPU a message over that of `other`, round by round, so that what changes slowly on the machine cancels out.
fn ratio(entry: &Entry, other: &Entry) -> String {
    let rounds = entry.samples.iter().zip(&other.samples);
    Quartiles::of(rounds.map(|(mine, others)| mine.cpu / others.cpu))
        .map_or_else(String::new, |ratio| ratio.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn sample(kind: Kind, shape: Shape, plan: &Plan) -> io::Result<Sample> {
    let mut server = Server::start(kind, plan.place)?;
    let mut load = Load::open(server.address(), kind.protocol(), shape)?;
    load.start(shape.in_flight)?;
    load.run(WARM_UP)?;
    let before = server.cpu()?;
    let echoed = load.run(plan.duration)?;
    let used = server.cpu()? - before;
    Ok(Sample {
        cpu: used as f64 / echoed.messages as f64,
        rate: echoed.messages as f64 / echoed.elapsed.as_secs_f64(),
        latency: echoed.latency,
        peak: memory::peak(server.pid())?,
    })
}

fn idle(case: &Case, plan: &Plan) -> io::Result<Vec<(String, f64)>> {
    let mut medians = Vec::new();
    for &kind in &plan.servers {
        let mut figures = Vec::new();
        for round in 0..IDLE_ROUNDS {
            eprintln!("{case} {} {}/{IDLE_ROUNDS}", kind.name(), round + 1);
            figures.push(resident(kind, plan.place)?);
        }
        if let Some(figures) = Quartiles::of(figures) {
            println!("| {case} {IDLE} | {} | {figures:.0} |", kind.name());
            medians.push((kind.name().to_owned(), figures.median));
        }
    }
    Ok(medians)
}

/// What each of many open connections adds to the server's resident memory after one echo each.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn resident(kind: Kind, place: Place) -> io::Result<f64> {
    let server = Server::start(kind, place)?;
    let shape = Shape {
        connections: OPEN_BEFORE,
        in_flight: 1,
        payload: 64,
    };
    let mut load = Load::open(server.address(), kind.protocol(), shape)?;
    load.echo_once(0)?;
    std::thread::sleep(SETTLE);
    let before = memory::resident(server.pid())?;
    load.extend(server.address(), IDLE - OPEN_BEFORE)?;
    load.echo_once(OPEN_BEFORE)?;
    std::thread::sleep(SETTLE);
    let after = memory::resident(server.pid())?;
    Ok((after as f64 - before as f64) / (IDLE - OPEN_BEFORE) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Ten thousand connections need as many descriptors on either side; children inherit the limit.
fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

/// One line about the machine, for the record beside the figures.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        });
    format!(
        "{} x {model}, Linux {}, load {} before the first run",
        std::thread::available_parallelism().map_or(0, usize::from),
        read("/proc/sys/kernel/osrelease")
            .split(['-', '\n'])
            .next()
            .unwrap_or_default(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}
