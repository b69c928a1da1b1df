//! Runs seeds of the scenarios.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use getty_sim::{
    scenarios::{SCENARIOS, Scenario},
    world::{Outcome, run},
};

const USAGE: &str = "\
usage: getty-sim [--seeds N] [--from SEED] [--first] [SCENARIO...]
       SIM_SEED=SEED getty-sim [SCENARIO...]    one seed, with its trace

N seeds of each scenario; the default is 40. The exit status is 1 if a seed fails. With --first
the first one ends the program.";

struct Options {
    seeds: u64,
    from: u64,
    first: bool,
    scenarios: Vec<Scenario>,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}\n\nscenarios:");
            for scenario in SCENARIOS {
                eprintln!("  {:<16} {}", scenario.name, scenario.about);
            }
            return ExitCode::from(2);
        }
    };
    match std::env::var("SIM_SEED") {
        Ok(seed) => match seed.parse() {
            Ok(seed) => one(&options, seed),
            Err(_) => {
                eprintln!("SIM_SEED is not a number: {seed}");
                ExitCode::from(2)
            }
        },
        Err(_) => many(&options),
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 40,
        from: 0,
        first: false,
        scenarios: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|value| value.parse().ok());
            value.ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number()?,
            "--first" => options.first = true,
            "--from" => options.from = number()?,
            name => {
                let known = SCENARIOS.into_iter().find(|scenario| scenario.name == name);
                let known = known.ok_or_else(|| format!("unknown argument {name}"))?;
                options.scenarios.push(known);
            }
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios = SCENARIOS.to_vec();
    }
    Ok(options)
}

/// Runs one seed of each scenario, and prints the trace.
fn one(options: &Options, seed: u64) -> ExitCode {
    let mut failed = false;
    for scenario in &options.scenarios {
        eprintln!("{}: seed {seed}", scenario.name);
        let outcome = run(scenario.plan(seed), seed, true);
        failed |= outcome.violation.is_some();
        let result = outcome.violation.as_deref().unwrap_or("ok");
        println!(
            "{} {seed}: {result}; trace {:016x}",
            scenario.name, outcome.hash
        );
    }
    ExitCode::from(u8::from(failed))
}

#[derive(Default)]
struct Summary {
    runs: u64,
    failed: u64,
    events: u64,
    simulated: Duration,
    counts: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.failed += u64::from(outcome.violation.is_some());
        self.events += outcome.events;
        self.simulated += outcome.elapsed;
        for (what, count) in &outcome.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
    }

    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.simulated += other.simulated;
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

/// Runs many seeds of each scenario.
fn many(options: &Options) -> ExitCode {
    let begin = Instant::now();
    let mut failed = false;
    let mut total = Summary::default();
    for scenario in &options.scenarios {
        let mut summary = Summary::default();
        for seed in options.from..options.from.saturating_add(options.seeds) {
            let outcome = run(scenario.plan(seed), seed, false);
            report(scenario, seed, &outcome);
            summary.add(&outcome);
            // A fault of the code fails most seeds. Some are enough.
            if summary.failed >= 3 || (options.first && summary.failed > 0) {
                break;
            }
        }
        failed |= summary.failed > 0;
        println!(
            "{:<16} {} seeds, {} failed, {:.0} s simulated, {} events",
            scenario.name,
            summary.runs,
            summary.failed,
            summary.simulated.as_secs_f64(),
            summary.events,
        );
        total.merge(summary);
        if failed && options.first {
            break;
        }
    }
    for (what, count) in &total.counts {
        println!("{count:>11} {what}");
    }
    println!(
        "{} seeds in {:.1} s: {:.0} s simulated, {} events",
        total.runs,
        begin.elapsed().as_secs_f64(),
        total.simulated.as_secs_f64(),
        total.events,
    );
    ExitCode::from(u8::from(failed))
}

fn report(scenario: &Scenario, seed: u64, outcome: &Outcome) {
    let name = scenario.name;
    // Every tenth seed must have the same trace the second time.
    if seed.is_multiple_of(10) && outcome.violation.is_none() {
        let again = run(scenario.plan(seed), seed, false);
        assert_eq!(
            (again.hash, again.events),
            (outcome.hash, outcome.events),
            "{name} {seed}: the same seed has another trace"
        );
    }
    let Some(violation) = &outcome.violation else {
        return;
    };
    let mut text = String::new();
    for line in &outcome.last[outcome.last.len().saturating_sub(25)..] {
        text.push_str(line);
        text.push('\n');
    }
    eprintln!(
        "{text}{name}: seed {seed} failed: {violation}\nrepeat it with: SIM_SEED={seed} cargo run -- {name}"
    );
}
