//! tokio-tower: its pipelining server over tokio-util's `Framed`.

use std::{
    future::{Ready, ready},
    io,
    net::TcpListener,
    process::ExitCode,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use getty_benches::{
    child,
    server::{self, codec},
};
use tokio::net::TcpStream;
use tokio_tower::pipeline::Server;
use tokio_util::codec::Framed;
use tower_service::Service;

fn main() -> ExitCode {
    child::main(&[("tokio-tower", run)])
}

fn run(listener: TcpListener) -> io::Result<()> {
    server::accept(listener, connection)
}

async fn connection(stream: TcpStream) -> io::Result<()> {
    let transport = Framed::new(stream, codec::tokio_util());
    Server::new(transport, Echo).await.map_err(io::Error::other)
}

struct Echo;

impl Service<BytesMut> for Echo {
    type Response = Bytes;
    type Error = io::Error;
    type Future = Ready<io::Result<Bytes>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, frame: BytesMut) -> Self::Future {
        ready(Ok(frame.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use getty_benches::{check, server::Protocol};

    #[test]
    fn it_echoes() {
        check::echoes("tokio-tower", Protocol::Length, super::run);
    }
}
