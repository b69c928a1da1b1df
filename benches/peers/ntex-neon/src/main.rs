//! ntex on its own runtime, over `epoll`: the same server as over tokio.
//!
//! Over `io_uring`, which it has as well, it does not echo: where a socket takes only a part of a write, bytes are lost
//! (ntex-net 3.16.0 on Linux 6.18; of 20 frames of 200,000 bytes at once not all came back).

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
    fn it_echoes() {
        check::echoes("ntex-epoll", Protocol::Length, super::run);
    }
}
