//! Performance targets of getty and whether they were met.

use std::fmt::Write as _;

use super::{Case, Group, Measured, Results, peers::Peer};
use crate::server::{Kind, Protocol};

/// Minimum number of rounds for a verdict. With five the quartiles exclude the highest and the
/// lowest ratio. With fewer one disturbed round could decide.
const MIN_ROUNDS: usize = 5;

/// The hand-written loops.
const HAND: [&str; 2] = ["tokio-8k", "tokio-64k"];

/// Text of a verdict with too few rounds.
const TOO_FEW: &str = "too few rounds";

/// A target with its measured ratio.
#[derive(Debug)]
struct Verdict {
    case: Case,
    what: String,
    measured: f64,
    at_most: f64,
    /// Error of the case.
    error: f64,
    /// `true` if there were enough rounds.
    is_conclusive: bool,
}

/// Returns a table of all targets that were measured.
#[must_use]
pub(super) fn verdicts(results: &Results) -> String {
    let mut verdicts = Vec::new();
    for measured in &results.measured {
        match measured.case().group() {
            Group::Echo(Protocol::Length) => over_tcp(measured, &mut verdicts),
            Group::Echo(Protocol::WebSocket) => over_websocket(measured, &mut verdicts),
            Group::Udp => over_udp(measured, &mut verdicts),
            Group::Broadcast | Group::Calls => {}
        }
    }
    for idle in &results.idle {
        for (name, at_most) in [
            ("getty", 1536.0),
            ("getty-full", 3072.0),
            ("ws-getty", 6144.0),
        ] {
            verdicts.extend(idle.median(name).map(|measured| Verdict {
                case: idle.case(),
                what: format!("{name}, bytes a connection"),
                measured,
                at_most,
                error: 0.0,
                // Memory does not depend on other load of the machine.
                is_conclusive: true,
            }));
        }
    }
    let mut table = String::new();
    if !verdicts.is_empty() {
        table.push_str(
            "| case | target | measured | at most | error | |\n|---|---|--:|--:|--:|---|\n",
        );
    }
    for verdict in &verdicts {
        // Writing to a string cannot fail.
        _ = writeln!(table, "{}", verdict.line());
    }
    table
}

fn over_tcp(measured: &Measured, verdicts: &mut Vec<Verdict>) {
    let case = measured.case();
    let Some(pipelined) = case.is_pipelined() else {
        return;
    };
    let mut want = |name: &str, other: Option<&str>, at_most| {
        verdicts.extend(other.and_then(|other| Verdict::of(measured, name, other, at_most)));
    };
    let hand = measured.cheapest(|name| HAND.contains(&name));
    want("getty", hand, if pipelined { 1.0 } else { 1.02 });
    if case == Case::echo(50, 64, 64) {
        want("getty", Some(Kind::Epoll.name()), 1.15);
    }
    if case == Case::echo(50, 64, 1024) {
        want("getty", Some(Kind::Epoll.name()), 1.3);
    }
    let framed = [Kind::FramedForward, Kind::FramedSend].map(Kind::name);
    let peer = measured.cheapest(|name| Peer::from_name(name).is_some() || framed.contains(&name));
    want("getty", peer, 1.0);
    want(
        "getty-full",
        Some("getty"),
        if pipelined { 1.3 } else { 1.05 },
    );
}

fn over_websocket(measured: &Measured, verdicts: &mut Vec<Verdict>) {
    let (other, at_most) = match measured.case().is_pipelined() {
        Some(true) => ("ws-forward", 1.0),
        Some(false) => ("fastwebsockets", 1.05),
        None => return,
    };
    verdicts.extend(Verdict::of(measured, "ws-getty", other, at_most));
    let peer = measured.cheapest(|name| Peer::from_name(name).is_some());
    let peer = peer.filter(|peer| *peer != other);
    verdicts.extend(peer.and_then(|peer| Verdict::of(measured, "ws-getty", peer, 1.0)));
}

fn over_udp(measured: &Measured, verdicts: &mut Vec<Verdict>) {
    let other = match measured.case().is_pipelined() {
        Some(true) => "hand-mmsg",
        Some(false) => "hand",
        None => return,
    };
    verdicts.extend(Verdict::of(measured, "getty", other, 1.1));
}

impl Verdict {
    /// Returns the verdict about the ratio of two contestants. `None` if one was not measured.
    fn of(measured: &Measured, name: &str, other: &str, at_most: f64) -> Option<Self> {
        Some(Self {
            case: measured.case(),
            what: format!("{name} over {other}"),
            measured: measured.ratio(name, other)?.median,
            at_most,
            error: measured.error().unwrap_or(0.0),
            is_conclusive: measured.rounds() >= MIN_ROUNDS,
        })
    }

    fn line(&self) -> String {
        let Self {
            case,
            what,
            measured,
            at_most,
            error,
            is_conclusive,
        } = self;
        let verdict = if !is_conclusive {
            return format!("| {case} | {what} | {measured:.2} | {at_most:.2} | - | {TOO_FEW} |");
        } else if measured <= at_most {
            "met"
        } else if *measured <= at_most * (1.0 + error) {
            "met, within the error"
        } else {
            "missed"
        };
        let digits = if *at_most > 100.0 { 0 } else { 2 };
        format!(
            "| {case} | {what} | {measured:.digits$} | {at_most:.digits$} | {error:.2} \
             | {verdict} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::take_turns,
        measure::{Histogram, Sample},
    };

    fn measured(cpu: &[(&str, f64)], rounds: usize) -> Results {
        let names: Vec<&str> = cpu.iter().map(|(name, _)| *name).collect();
        // The reference is the first contestant and is repeated in each round.
        let each = names.len() + 1;
        let mut turns = 0;
        let (measured, _) = take_turns(
            Case::echo(50, 64, 64),
            &names,
            &names[..1],
            rounds,
            |index| {
                let place = (turns / each + turns % each) % each;
                turns += 1;
                // The repetition costs a twentieth more.
                let again = if place == names.len() { 5.0 } else { 0.0 };
                Ok(Sample {
                    cpu: cpu[index].1 + again,
                    rate: 1.0,
                    latency: Histogram::default(),
                    peak: None,
                })
            },
        );
        Results {
            measured: vec![measured],
            ..Results::default()
        }
    }

    #[test]
    fn few_rounds_give_no_verdict() {
        for rounds in 1..MIN_ROUNDS {
            let table = verdicts(&measured(&[("tokio-8k", 100.0), ("getty", 90.0)], rounds));
            assert!(
                table.ends_with("| 0.90 | 1.00 | - | too few rounds |\n"),
                "{table}"
            );
            assert!(!table.contains("met"), "{table}");
        }
        let table = verdicts(&measured(
            &[("tokio-8k", 100.0), ("getty", 90.0)],
            MIN_ROUNDS,
        ));
        assert!(table.ends_with("| 0.90 | 1.00 | 0.05 | met |\n"), "{table}");
    }

    #[test]
    fn targets_use_the_cheaper_hand_written_loop() {
        let results = measured(
            &[("tokio-8k", 100.0), ("tokio-64k", 80.0), ("getty", 100.0)],
            MIN_ROUNDS,
        );
        assert!(
            verdicts(&results).contains("| getty over tokio-64k | 1.25 | 1.00 | 0.05 | missed |")
        );
    }

    #[test]
    fn ratios_within_the_error_are_marked() {
        let results = measured(&[("tokio-8k", 100.0), ("getty", 104.0)], MIN_ROUNDS);
        let verdicts = verdicts(&results);
        assert!(verdicts.ends_with("| 1.04 | 1.00 | 0.05 | met, within the error |\n"));
    }

    #[test]
    fn targets_include_peers_and_skip_unmeasured_servers() {
        let results = measured(
            &[("tokio-8k", 100.0), ("ntex", 90.0), ("getty", 81.0)],
            MIN_ROUNDS,
        );
        let verdicts = verdicts(&results);
        assert!(verdicts.contains("| getty over ntex | 0.90 | 1.00 | 0.05 | met |"));
        assert!(!verdicts.contains("epoll"), "{verdicts}");
    }
}
