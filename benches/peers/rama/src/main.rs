//! rama: its TCP server with the `Framed` type of tokio-util that it re-exports.

use std::{io, net, process::ExitCode};

use futures_util::{StreamExt, TryStreamExt};
use getty_benches_harness::{accept, child, frames};
use rama_core::{
    bytes::BytesMut,
    service::service_fn,
    stream::codec::{Framed, LengthDelimitedCodec},
};
use rama_tcp::{TcpStream, server::TcpListener};

fn main() -> ExitCode {
    child::main(&[("rama", run)])
}

fn run(listener: net::TcpListener) -> io::Result<()> {
    accept::runtime()?.block_on(async {
        let listener = TcpListener::try_from(listener)?;
        listener.serve(service_fn(echo)).await;
        Ok(())
    })
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    stream.stream.set_nodelay(true)?;
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(frames::HEADER)
        .max_frame_length(frames::MAX_PAYLOAD)
        .new_codec();
    let (sink, stream) = Framed::new(stream, codec).split();
    stream.map_ok(BytesMut::freeze).forward(sink).await
}

#[cfg(test)]
mod tests {
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes() {
        check::echoes("rama", Protocol::Length, super::run);
    }
}
