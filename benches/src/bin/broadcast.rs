//! Measures one message to many connections in memory and on one thread. Compares getty's
//! groups with hand-written code.

use std::process::ExitCode;

use getty::BoxError;
use getty_benches::{
    cli,
    measure::{again, print_costs},
    workload::broadcast::{Broadcast, Carrier, Kind},
};

/// Number of connections and of messages that are sent before the runtime polls the
/// connections.
const CASES: [(usize, u64); 4] = [(1_000, 1), (10_000, 1), (1_000, 8), (10_000, 8)];
/// Payload of a message, in bytes.
const PAYLOAD: usize = 1024;
/// Number of deliveries in each sample.
const DELIVERIES: u64 = 240_000;
const ROUNDS: usize = 11;

const USAGE: &str = "\
usage: broadcast [KIND CARRIER CONNECTIONS TIMES AT_ONCE]

Without arguments: measures every kind on every carrier, in some minutes. With arguments: runs one
case without a measurement, for a profiler. Example: broadcast \"getty, group\" sink 1000 240 8
";

fn main() -> ExitCode {
    cli::run("broadcast", USAGE, |options| match *options {
        [] => {
            measure_all();
            Ok(())
        }
        [kind, carrier, connections, times, at_once] => {
            run_one(kind, carrier, connections, times, at_once)
        }
        [option, ..] => Err(cli::unknown(option, USAGE)),
    })
}

fn run_one(
    kind: &str,
    carrier: &str,
    connections: &str,
    times: &str,
    at_once: &str,
) -> Result<(), BoxError> {
    let kind = Kind::ALL
        .into_iter()
        .find(|known| known.name() == kind)
        .ok_or_else(|| format!("unknown kind {kind:?}"))?;
    let carrier = Carrier::ALL
        .into_iter()
        .find(|known| known.name() == carrier)
        .ok_or_else(|| format!("unknown carrier {carrier:?}"))?;
    let broadcast = Broadcast::new(kind, carrier, connections.parse()?, PAYLOAD);
    broadcast.send(times.parse()?, at_once.parse()?);
    Ok(())
}

fn measure_all() {
    println!(
        "| carrier | connections x at once | how | CPU ns a delivery | x hand-written, buffers |"
    );
    println!("|---|--:|---|--:|--:|");
    for carrier in Carrier::ALL {
        for (connections, at_once) in CASES {
            measure(carrier, connections, at_once);
        }
    }
    println!("\n{ROUNDS} rounds of {DELIVERIES} deliveries of {PAYLOAD} bytes.");
}

fn measure(carrier: Carrier, connections: usize, at_once: u64) {
    let names = Kind::ALL.map(|kind| (kind.name().to_owned(), kind));
    let reference = (again(Kind::ALL[0].name()), Kind::ALL[0]);
    let broadcasts: Vec<(String, Broadcast)> = names
        .into_iter()
        .chain([reference])
        .map(|(name, kind)| (name, Broadcast::new(kind, carrier, connections, PAYLOAD)))
        .collect();
    let case = format!("{} | {connections}x{at_once}", carrier.name());
    print_costs(&case, &broadcasts, ROUNDS, |broadcast| {
        broadcast.cost(DELIVERIES, at_once)
    });
}
