//! Measures the session loop beside hand-written loops. All run in memory and on one thread.

use std::process::ExitCode;

use getty_benches::{
    cli, cpu,
    measure::{again, print_costs},
    workload::echo::{Loop, Prepared},
};

/// Frames that arrive together and the payload of each in bytes.
const CASES: [(usize, usize); 3] = [(64, 64), (1, 64), (16, 1024)];
const MESSAGES: usize = 100_000;
const ROUNDS: usize = 21;

const USAGE: &str = "\
usage: in_memory

Measures every loop over every transport, in half a minute. There are no options.
";

fn main() -> ExitCode {
    cli::run("in_memory", USAGE, |options| {
        if let Some(option) = options.first() {
            return Err(cli::unknown(option, USAGE));
        }
        println!(
            "| transport | at once x payload | loop | CPU ns a message | x hand-written, codec |"
        );
        println!("|---|---|---|--:|--:|");
        measure("scripted", Prepared::scripted);
        measure("duplex", Prepared::duplex);
        println!("\n{ROUNDS} rounds of {MESSAGES} messages.");
        Ok(())
    })
}

fn measure(transport: &str, run: fn(&Prepared)) {
    let mut loops: Vec<(String, Loop)> = Loop::ALL
        .into_iter()
        .map(|kind| (kind.name().to_owned(), kind))
        .collect();
    loops.push((again(Loop::ALL[0].name()), Loop::ALL[0]));
    for (frames, payload) in CASES {
        let case = format!("{transport} | {frames}x{payload}");
        print_costs(&case, &loops, ROUNDS, |&kind| {
            cost(kind, frames, payload, run)
        });
    }
}

/// Returns the CPU time of a message, in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
fn cost(kind: Loop, frames: usize, payload: usize, run: fn(&Prepared)) -> f64 {
    let prepared = Prepared::new(kind, frames, payload, (MESSAGES / frames) as u64);
    let before = cpu::of_thread();
    run(&prepared);
    (cpu::of_thread() - before) as f64 / MESSAGES as f64
}
