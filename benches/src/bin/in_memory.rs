//! CPU time of the session loop against the same loop written by hand, both on one thread and in memory.

use std::process::ExitCode;

use getty_benches::{
    cpu,
    in_memory::{Loop, Prepared},
    options,
    stats::Quartiles,
};

/// Frames that arrive together, and the payload bytes of each.
const CASES: [(usize, usize); 3] = [(64, 64), (1, 64), (16, 1024)];
const MESSAGES: usize = 100_000;
const ROUNDS: usize = 21;

const USAGE: &str = "usage: in_memory

  Every loop over every transport, in half a minute. It has no options.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.is_empty() {
        let options: Vec<_> = arguments.iter().map(String::as_str).collect();
        return options::none_but_help(&options, USAGE);
    }
    println!("| transport | at once x payload | loop | CPU ns a message | x hand-written, codec |");
    println!("|---|---|---|--:|--:|");
    measure("scripted", Prepared::scripted);
    measure("duplex", Prepared::duplex);
    println!("\n{ROUNDS} rounds of {MESSAGES} messages.");
    ExitCode::SUCCESS
}

fn measure(transport: &str, run: fn(&Prepared)) {
    for (frames, payload) in CASES {
        // The reference once more at the end: how far it is from itself is the error of the measure.
        let mut loops: Vec<(String, Loop, Vec<f64>)> = Loop::ALL
            .into_iter()
            .map(|kind| (kind.name().to_owned(), kind))
            .chain([(format!("{}, again", Loop::ALL[0].name()), Loop::ALL[0])])
            .map(|(label, kind)| (label, kind, Vec::new()))
            .collect();
        for round in 0..ROUNDS {
            for turn in 0..loops.len() {
                let index = (round + turn) % loops.len();
                let (_, kind, samples) = &mut loops[index];
                samples.push(sample(*kind, frames, payload, run));
            }
        }
        let reference = loops[0].2.clone();
        for (label, _, samples) in &loops {
            let ratios = samples
                .iter()
                .zip(&reference)
                .map(|(mine, reference)| mine / reference);
            if let (Some(cpu), Some(ratio)) = (
                Quartiles::of(samples.iter().copied()),
                Quartiles::of(ratios),
            ) {
                println!("| {transport} | {frames}x{payload} | {label} | {cpu:.1} | {ratio} |");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn sample(kind: Loop, frames: usize, payload: usize, run: fn(&Prepared)) -> f64 {
    let prepared = Prepared::new(kind, frames, payload, (MESSAGES / frames) as u64);
    let before = cpu::of_thread();
    run(&prepared);
    (cpu::of_thread() - before) as f64 / MESSAGES as f64
}
