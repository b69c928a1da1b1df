//! Instructions a message, counted by Callgrind: the same figure on a busy machine as on an idle one.
//!
//! Each figure is the difference between a long run and a short one of this same program under `valgrind`, divided by
//! the messages that the long one has more, so that what happens once cancels out.

use std::{
    error::Error,
    fmt::Write,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use getty_benches::{
    broadcast::{Carrier, Crowd, Kind},
    calls::Caller,
    in_memory::{Loop, Prepared},
};

const USAGE: &str = "\
usage: instructions [--save | --check]

  --save     makes today's figures the baseline
  --check    fails when a figure of getty's own is more than 3% above the baseline of the same compiler
";

const PAYLOAD: usize = 64;
const SHORT: u64 = 1_000;
const LONG: u64 = 11_000;
/// How many percent a figure may be above its baseline.
const TOLERANCE: f64 = 3.0;

/// What is counted, and how many messages are on their way together.
#[derive(Clone, Copy)]
enum What {
    /// Frames that arrive and are echoed.
    Echo(Loop, u64),
    /// Calls that wait for their answers, each by a task of its own.
    Calls(Caller, u64),
}

use What::{Calls, Echo};

const SCENARIOS: [(&str, What); 24] = [
    ("codec-50", Echo(Loop::Codec, 50)),
    ("getty-50", Echo(Loop::Getty, 50)),
    ("getty-ten-layers-50", Echo(Loop::GettyTenLayers, 50)),
    ("getty-tower-50", Echo(Loop::GettyTower, 50)),
    ("getty-full-50", Echo(Loop::GettyFull, 50)),
    ("codec-1", Echo(Loop::Codec, 1)),
    ("getty-1", Echo(Loop::Getty, 1)),
    ("getty-ten-layers-1", Echo(Loop::GettyTenLayers, 1)),
    ("getty-tower-1", Echo(Loop::GettyTower, 1)),
    ("getty-full-1", Echo(Loop::GettyFull, 1)),
    ("ws-send-50", Echo(Loop::WsSend, 50)),
    ("ws-getty-50", Echo(Loop::WsGetty, 50)),
    ("ws-send-1", Echo(Loop::WsSend, 1)),
    ("ws-getty-1", Echo(Loop::WsGetty, 1)),
    (
        "calls-pipeline-by-hand-50",
        Calls(Caller::PipelineByHand, 50),
    ),
    ("calls-pipeline-50", Calls(Caller::Pipeline, 50)),
    (
        "calls-multiplex-by-hand-50",
        Calls(Caller::MultiplexByHand, 50),
    ),
    ("calls-multiplex-50", Calls(Caller::Multiplex, 50)),
    ("calls-none-50", Calls(Caller::Loop, 50)),
    ("calls-pipeline-by-hand-1", Calls(Caller::PipelineByHand, 1)),
    ("calls-pipeline-1", Calls(Caller::Pipeline, 1)),
    (
        "calls-multiplex-by-hand-1",
        Calls(Caller::MultiplexByHand, 1),
    ),
    ("calls-multiplex-1", Calls(Caller::Multiplex, 1)),
    ("calls-none-1", Calls(Caller::Loop, 1)),
];

/// What is counted of broadcasts: who makes them. A delivery to one of a hundred connections is a message.
const BROADCASTS: [(&str, Kind); 2] = [
    ("broadcast-by-hand", Kind::Buffers),
    ("broadcast-group", Kind::Group),
];
const CONNECTIONS: u64 = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", scenario, messages] => run(scenario, messages),
        [] => count(Then::Print),
        ["--save"] => count(Then::Save),
        ["--check"] => count(Then::Check),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What Callgrind watches.
fn run(scenario: &str, messages: &str) -> Result<(), Box<dyn Error>> {
    if let Some((_, kind)) = BROADCASTS.iter().find(|(name, _)| *name == scenario) {
        let connections = usize::try_from(CONNECTIONS)?;
        let crowd = Crowd::new(*kind, Carrier::Sink, connections, 1024);
        crowd.broadcast(messages.parse::<u64>()? / CONNECTIONS, 1);
        return Ok(());
    }
    let (_, what) = SCENARIOS
        .into_iter()
        .find(|(name, _)| *name == scenario)
        .ok_or("there is no such scenario")?;
    let messages = messages.parse::<u64>()?;
    match what {
        Echo(kind, at_once) => {
            let times = messages / at_once;
            Prepared::new(kind, usize::try_from(at_once)?, PAYLOAD, times).scripted();
        }
        Calls(caller, tasks) => caller.run(usize::try_from(tasks)?, usize::try_from(messages)?),
    }
    Ok(())
}

/// What becomes of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Print,
    Save,
    Check,
}

fn count(then: Then) -> Result<(), Box<dyn Error>> {
    let compiler = compiler()?;
    let baseline = Baseline::read()?;
    // Another compiler makes other code: its figures say nothing about ours.
    let comparable = baseline.compiler == compiler;
    println!("{compiler}; the baseline is of {}\n", baseline.compiler);
    println!("| scenario | instructions a message | baseline |\n|---|--:|--:|");
    let mut saved = format!("{compiler}\n");
    let mut grown = Vec::new();
    let broadcasts = BROADCASTS.iter().map(|(name, _)| *name);
    for scenario in SCENARIOS.iter().map(|(name, ..)| *name).chain(broadcasts) {
        let figure = difference(scenario)?;
        let before = baseline.figure(scenario);
        println!(
            "| {scenario} | {figure:.1} | {} |",
            before.map_or_else(|| "-".to_owned(), |before| format!("{before:.1}")),
        );
        writeln!(saved, "{scenario} {figure:.1}")?;
        let above = |before| figure > before * (1.0 + TOLERANCE / 100.0);
        if is_ours(scenario) && before.is_some_and(above) {
            grown.push(scenario);
        }
    }
    match then {
        Then::Save => fs::write(Baseline::path(), saved)?,
        Then::Check if comparable && !grown.is_empty() => {
            return Err(format!(
                "more than {TOLERANCE}% above the baseline: {}; if that is meant, --save it in the same commit",
                grown.join(", ")
            )
            .into());
        }
        Then::Check if !comparable => {
            println!("\nNot checked: the baseline is another compiler's.");
        }
        Then::Check | Then::Print => {}
    }
    Ok(())
}

/// Whether a scenario is held to its baseline. What it is compared with is not: hash tables with random keys and others'
/// buffers are in it, which come out differently each time.
fn is_ours(scenario: &str) -> bool {
    let others = ["by-hand", "codec", "ws-send", "calls-none"];
    !others.iter().any(|other| scenario.contains(other))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn difference(scenario: &str) -> Result<f64, Box<dyn Error>> {
    let (short, long) = (callgrind(scenario, SHORT)?, callgrind(scenario, LONG)?);
    Ok((long as f64 - short as f64) / (LONG - SHORT) as f64)
}

fn callgrind(scenario: &str, messages: u64) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", scenario, &messages.to_string()])
        .output()
        .map_err(|error| format!("valgrind does not start: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{scenario} failed under valgrind:\n{report}").into());
    }
    report
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| format!("no count in what valgrind says:\n{report}").into())
}

fn compiler() -> Result<String, Box<dyn Error>> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Figures of an earlier day, as committed: the compiler's version, then a scenario and its figure a line.
#[derive(Debug)]
struct Baseline {
    compiler: String,
    figures: Vec<(String, f64)>,
}

impl Baseline {
    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
    }

    fn read() -> Result<Self, Box<dyn Error>> {
        let text = fs::read_to_string(Self::path())?;
        let mut lines = text.lines();
        let compiler = lines.next().unwrap_or_default().to_owned();
        let figures = lines
            .map(|line| {
                let (scenario, figure) = line
                    .split_once(' ')
                    .ok_or_else(|| format!("no figure in {line:?}"))?;
                Ok((scenario.to_owned(), figure.parse()?))
            })
            .collect::<Result<_, Box<dyn Error>>>()?;
        Ok(Self { compiler, figures })
    }

    fn figure(&self, scenario: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|(name, _)| name == scenario)
            .map(|&(_, figure)| figure)
    }
}
