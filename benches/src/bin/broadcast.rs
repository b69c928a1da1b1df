//! CPU time of one message to many connections: getty's groups beside what one would write by hand, on one thread and in
//! memory.

use std::process::ExitCode;

use getty_benches::{
    broadcast::{Carrier, Crowd, Kind},
    options,
    stats::Quartiles,
};

/// How many connections, and how many messages before each of them has its turn.
const CASES: [(usize, u64); 4] = [(1_000, 1), (10_000, 1), (1_000, 8), (10_000, 8)];
const PAYLOAD: usize = 1024;
/// How many deliveries a sample has.
const DELIVERIES: u64 = 240_000;
const ROUNDS: usize = 11;

const USAGE: &str = "usage: broadcast [KIND CARRIER CONNECTIONS TIMES AT_ONCE]

  Without arguments: every kind on every carrier, in some minutes. With them one line alone, for a profiler, as in
  broadcast \"getty, group\" sink 1000 240 8
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, carrier, connections, times, at_once] = &arguments[..] {
        // for a profiler
        let kind = Kind::ALL.into_iter().find(|known| known.name() == *kind);
        let carrier = [Carrier::Sink, Carrier::Duplex]
            .into_iter()
            .find(|known| known.name() == *carrier);
        let (Some(kind), Some(carrier)) = (kind, carrier) else {
            panic!("there is no such kind or carrier");
        };
        let connections = connections.parse().expect("a number of connections");
        let crowd = Crowd::new(kind, carrier, connections, PAYLOAD);
        crowd.broadcast(
            times.parse().expect("how often"),
            at_once.parse().expect("how many messages at once"),
        );
        return ExitCode::SUCCESS;
    }
    if !arguments.is_empty() {
        let options: Vec<_> = arguments.iter().map(String::as_str).collect();
        return options::none_but_help(&options, USAGE);
    }
    println!(
        "| carrier | connections x at once | how | CPU ns a delivery | x hand-written, buffers |"
    );
    println!("|---|--:|---|--:|--:|");
    for carrier in [Carrier::Sink, Carrier::Duplex] {
        for (connections, at_once) in CASES {
            measure(carrier, connections, at_once);
        }
    }
    println!("\n{ROUNDS} rounds of {DELIVERIES} deliveries of {PAYLOAD} bytes.");
    ExitCode::SUCCESS
}

fn measure(carrier: Carrier, connections: usize, at_once: u64) {
    // the reference once more at the end: how far it is from itself is the error of the measure
    let again = format!("{}, again", Kind::ALL[0].name());
    let kinds = Kind::ALL.map(|kind| (kind.name(), kind));
    let mut crowds: Vec<(&str, Crowd, Vec<f64>)> = kinds
        .into_iter()
        .chain([(again.as_str(), Kind::ALL[0])])
        .map(|(name, kind)| {
            let crowd = Crowd::new(kind, carrier, connections, PAYLOAD);
            (name, crowd, Vec::new())
        })
        .collect();
    for round in 0..ROUNDS {
        for turn in 0..crowds.len() {
            let index = (round + turn) % crowds.len();
            let (_, crowd, samples) = &mut crowds[index];
            samples.push(crowd.cost(DELIVERIES, at_once));
        }
    }
    let reference = crowds[0].2.clone();
    for (name, _, samples) in &crowds {
        let ratios = samples
            .iter()
            .zip(&reference)
            .map(|(mine, reference)| mine / reference);
        if let (Some(cpu), Some(ratio)) = (
            Quartiles::of(samples.iter().copied()),
            Quartiles::of(ratios),
        ) {
            let carrier = carrier.name();
            println!("| {carrier} | {connections}x{at_once} | {name} | {cpu:.1} | {ratio} |");
        }
    }
}
