//! ntex on its own runtime over `epoll` with the same server as over tokio.
//!
//! Its `io_uring` runtime does not echo: bytes are lost if a socket accepts only a part of a
//! write. With ntex-net 3.16.0 on Linux 6.18, not all of 20 frames of 200,000 bytes came back.

#[path = "../../ntex/src/echo.rs"]
mod echo;

use std::{io, net::TcpListener, process::ExitCode};

use getty_benches_harness::child;
use ntex::rt::DefaultRuntime;

fn main() -> ExitCode {
    child::main(&[("ntex-epoll", run)])
}

fn run(listener: TcpListener) -> io::Result<()> {
    echo::serve(listener, DefaultRuntime)
}

#[cfg(test)]
mod tests {
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes() {
        check::echoes("ntex-epoll", Protocol::Length, super::run);
    }
}
