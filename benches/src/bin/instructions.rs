//! Instructions a message, counted by Callgrind: the same figure on a busy machine as on an idle one.

use std::{
    error::Error,
    process::{Command, ExitCode},
};

use getty_benches::{
    alone,
    instructions::{Scenario, baseline::Baseline, callgrind, scenarios},
};

const USAGE: &str = "\
usage: instructions [--check | --save | --add | WORD...]

  --check    fails when a figure of getty's own is more than 3% above the baseline of the same compiler, or has none
  --save     makes today's figures the baseline
  --add      adds to the baseline what is new, and takes out what is gone
  WORD       counts only scenarios with one of these in their names

  run SCENARIO TIMES    does the work, for valgrind to watch
";

/// A layer that does nothing may take so many instructions a message.
const PASS_THROUGH: f64 = 15.0;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", scenario, times] => run(scenario, times),
        ["--help"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["--save"] => count(Then::Save, &[]),
        ["--add"] => count(Then::Add, &[]),
        ["--check"] => count(Then::Check, &[]),
        ["run", ..] => Err(USAGE.into()),
        ref words if words.iter().all(|word| !word.starts_with('-')) => count(Then::Print, words),
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
fn run(name: &str, times: &str) -> Result<(), BoxError> {
    let scenarios = scenarios();
    let mut scenarios = scenarios.iter();
    let scenario = scenarios
        .find(|scenario| scenario.name() == name)
        .ok_or("there is no such scenario")?;
    scenario.run(times.parse()?);
    Ok(())
}

/// What becomes of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Print,
    Save,
    Add,
    Check,
}

fn count(then: Then, words: &[&str]) -> Result<(), BoxError> {
    let chosen = |scenario: &Scenario| {
        let name = scenario.name();
        words.is_empty() || words.iter().any(|word| name.contains(word))
    };
    let mut scenarios = scenarios();
    if !scenarios.iter().any(chosen) {
        let names: Vec<_> = scenarios.iter().map(Scenario::name).collect();
        let names = names.join(", ");
        return Err(
            format!("there is no scenario with such a word in its name among {names}").into(),
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
    match then {
        Then::Print => {}
        Then::Save => now.write()?,
        Then::Add => baseline.completed(&now).write()?,
        Then::Check => {
            let objections = baseline.objections(&scenarios, &now);
            let told = objections.iter().map(ToString::to_string);
            let told: Vec<_> = told.chain(too_deep(&now)).collect();
            if !told.is_empty() {
                return Err(told.join("\n").into());
            }
            if baseline.compiler != now.compiler {
                println!("\nNot checked: the baseline is another compiler's.");
            }
        }
    }
    Ok(())
}

fn print(baseline: &Baseline, now: &Baseline) {
    println!(
        "{}; the baseline is of {}\n",
        now.compiler, baseline.compiler
    );
    println!("| scenario | instructions | baseline |\n|---|--:|--:|");
    for (name, figure) in &now.figures {
        let before = baseline.figure(name);
        let before = before.map_or_else(|| "-".to_owned(), |before| format!("{before:.1}"));
        println!("| {name} | {figure:.1} | {before} |");
    }
}

/// What each layer adds to the bare stack.
fn print_layers(now: &Baseline) {
    let mut header =
        Some("\n| layer | a message, fifty at once | a message and its turn |\n|---|--:|--:|");
    let layers = alone::all().chain(alone::TOWER);
    let layers = layers.map(|(name, _)| format!("layer-{name}"));
    let depths = alone::DEPTHS.iter().map(|(name, _)| (*name).to_owned());
    for name in layers.chain(depths) {
        if let (Some(many), Some(one)) = (added(now, &name, 50), added(now, &name, 1)) {
            if let Some(header) = header.take() {
                println!("{header}");
            }
            println!("| {name} | {many:.1} | {one:.1} |");
        }
    }
}

/// What a stack takes beyond the bare one.
fn added(now: &Baseline, name: &str, at_once: u64) -> Option<f64> {
    let with = now.figure(&format!("{name}-{at_once}"))?;
    Some(with - now.figure(&format!("layer-none-{at_once}"))?)
}

/// Where layers that do nothing take more than they may.
fn too_deep(now: &Baseline) -> Option<String> {
    let each = [50, 1].map(|at_once| added(now, "pass-through-20", at_once).map(|all| all / 20.0));
    let most = each.into_iter().flatten().fold(0.0, f64::max);
    (most > PASS_THROUGH).then(|| {
        format!("a pass-through layer takes {most:.1} instructions a message, and may take {PASS_THROUGH}")
    })
}

fn compiler() -> Result<String, BoxError> {
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|error| format!("rustc does not start: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
