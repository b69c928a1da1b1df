//! Compares echo servers, each in a process of its own, under the same load: `--help` lists the options.

use std::{error::Error, process::ExitCode};

use getty_benches::{
    child::Place,
    compare::{self, Plan, USAGE},
    server::Kind,
    udp::{self, COMMAND},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, place] => serve(kind, place),
        [COMMAND, kind, place, workers] => udp::serve(kind, place, workers).map_err(Into::into),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ref options => Plan::parse(options).and_then(|plan| compare::run(&plan)),
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
    Ok(kind.serve(Place::from_name(place)?)?)
}
