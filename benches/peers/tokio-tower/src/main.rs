//! tokio-tower: its pipelining server over tokio-util's `Framed`.

use std::{
    future::{Ready, ready},
    io,
    net::TcpListener,
    process::ExitCode,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use getty_benches_harness::{accept, child, frames};
use tokio::net::TcpStream;
use tokio_tower::pipeline::Server;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tower_service::Service;

fn main() -> ExitCode {
    child::main(&[("tokio-tower", run)])
}

fn run(listener: TcpListener) -> io::Result<()> {
    accept::accept(listener, connection)
}

async fn connection(stream: TcpStream) -> io::Result<()> {
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(frames::HEADER)
        .max_frame_length(frames::MAX_PAYLOAD)
        .new_codec();
    let transport = Framed::new(stream, codec);
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
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes() {
        check::echoes("tokio-tower", Protocol::Length, super::run);
    }
}
