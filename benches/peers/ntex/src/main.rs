//! ntex over tokio: its server, a codec, and a loop over its `Io`.

mod echo;

use std::{io, net::TcpListener, process::ExitCode};

use getty_benches_harness::child;
use ntex::rt::DefaultRuntime;

fn main() -> ExitCode {
    child::main(&[("ntex", run)])
}

fn run(listener: TcpListener) -> io::Result<()> {
    echo::serve(listener, DefaultRuntime)
}

#[cfg(test)]
mod tests {
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes() {
        check::echoes("ntex", Protocol::Length, super::run);
    }
}
