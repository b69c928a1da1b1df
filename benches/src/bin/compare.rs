//! Compares echo servers under the same load. Each runs in a child process. `--help` lists the
//! options.

use std::process::ExitCode;

use getty_benches::{
    cli,
    compare::{self, Plan, USAGE},
    server,
};

fn main() -> ExitCode {
    cli::run("compare", USAGE, |options| {
        if let Some(served) = server::run_as_child(options) {
            return Ok(served?);
        }
        compare::run(&Plan::parse(options)?)
    })
}
