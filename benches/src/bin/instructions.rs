//! Counts instructions for each message with Callgrind. The figures do not depend on how busy
//! the machine is.

use std::process::{Command, ExitCode};

use getty::BoxError;
use getty_benches::{
    cli,
    instructions::{Scenario, baseline::Baseline, callgrind, scenarios},
    workload::layers,
};

const USAGE: &str = "\
usage: instructions [--check | --save | --add | WORD...]

  --check    fails if a figure of getty is more than 3% above the baseline of the same compiler, or
             if the baseline lacks it
  --save     writes the figures of today to the baseline
  --add      adds missing figures to the baseline, and removes figures without a scenario
  WORD       counts only scenarios with one of these words in their names

  run SCENARIO TIMES    runs a scenario without counting; used under valgrind
";

/// Maximum cost of a layer that only forwards messages, in instructions for each message.
const PASS_THROUGH: f64 = 15.0;

fn main() -> ExitCode {
    cli::run("instructions", USAGE, |options| match *options {
        ["run", scenario, times] => run(scenario, times),
        ["--save"] => count(Action::Save, &[]),
        ["--add"] => count(Action::Add, &[]),
        ["--check"] => count(Action::Check, &[]),
        ["run", ..] => Err(USAGE.into()),
        ref words if words.iter().all(|word| !word.starts_with('-')) => count(Action::Print, words),
        _ => Err(USAGE.into()),
    })
}

/// Runs a scenario. Callgrind will count this process.
fn run(name: &str, times: &str) -> Result<(), BoxError> {
    let scenarios = scenarios();
    let mut scenarios = scenarios.iter();
    let scenario = scenarios
        .find(|scenario| scenario.name() == name)
        .ok_or("unknown scenario")?;
    scenario.run(times.parse()?);
    Ok(())
}

/// Use of the counted figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Print,
    Save,
    Add,
    Check,
}

fn count(action: Action, words: &[&str]) -> Result<(), BoxError> {
    let chosen = |scenario: &Scenario| {
        let name = scenario.name();
        words.is_empty() || words.iter().any(|word| name.contains(word))
    };
    let mut scenarios = scenarios();
    if !scenarios.iter().any(chosen) {
        let names: Vec<_> = scenarios.iter().map(Scenario::name).collect();
        let names = names.join(", ");
        return Err(
            format!("no scenario name contains such a word; known scenarios: {names}").into(),
        );
    }
    scenarios.retain(chosen);
    let baseline = Baseline::read()?;
    let names = scenarios.iter().map(|scenario| scenario.name().to_owned());
    let now = Baseline {
        compiler: compiler()?,
        figures: names.zip(callgrind::count(&scenarios)?).collect(),
    };
    print(&baseline, &now);
    print_layers(&now);
    match action {
        Action::Print => {}
        Action::Save => now.write()?,
        Action::Add => baseline.completed(&now).write()?,
        Action::Check => {
            let mismatches = baseline.mismatches(&scenarios, &now);
            let failures = mismatches.iter().map(ToString::to_string);
            let failures: Vec<_> = failures.chain(too_deep(&now)).collect();
            if !failures.is_empty() {
                return Err(failures.join("\n").into());
            }
            if baseline.compiler != now.compiler {
                println!("\nNot checked: the baseline belongs to another compiler.");
            }
        }
    }
    Ok(())
}

fn print(baseline: &Baseline, now: &Baseline) {
    println!(
        "{}; the baseline belongs to {}\n",
        now.compiler, baseline.compiler
    );
    println!("| scenario | instructions | baseline |\n|---|--:|--:|");
    for (name, figure) in &now.figures {
        let before = baseline.figure(name);
        let before = before.map_or_else(|| "-".to_owned(), |before| format!("{before:.1}"));
        println!("| {name} | {figure:.1} | {before} |");
    }
}

/// Prints the instructions that each layer adds to the bare stack.
fn print_layers(now: &Baseline) {
    let mut header =
        Some("\n| layer | a message, fifty at once | a message and its turn |\n|---|--:|--:|");
    let single = layers::all().chain(layers::TOWER);
    let single = single.map(|(name, _)| format!("layer-{name}"));
    let depths = layers::DEPTHS.iter().map(|(name, _)| (*name).to_owned());
    for name in single.chain(depths) {
        if let (Some(many), Some(one)) = (added(now, &name, 50), added(now, &name, 1)) {
            if let Some(header) = header.take() {
                println!("{header}");
            }
            println!("| {name} | {many:.1} | {one:.1} |");
        }
    }
}

/// Returns the instructions that a stack takes beyond the bare one.
fn added(now: &Baseline, name: &str, at_once: u64) -> Option<f64> {
    let with = now.figure(&format!("{name}-{at_once}"))?;
    Some(with - now.figure(&format!("layer-none-{at_once}"))?)
}

/// Returns an error text if a layer that only forwards exceeds its maximum.
fn too_deep(now: &Baseline) -> Option<String> {
    let each = [50, 1].map(|at_once| added(now, "pass-through-20", at_once).map(|all| all / 20.0));
    let most = each.into_iter().flatten().fold(0.0, f64::max);
    (most > PASS_THROUGH).then(|| {
        format!(
            "a pass-through layer takes {most:.1} instructions a message; \
             the maximum is {PASS_THROUGH}"
        )
    })
}

fn compiler() -> Result<String, BoxError> {
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
