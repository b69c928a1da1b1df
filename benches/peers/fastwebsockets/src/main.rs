//! fastwebsockets over hyper's upgrade, as in its echo example. It writes each message by
//! itself and cannot batch.

use std::{convert::Infallible, io, net::TcpListener, process::ExitCode};

use fastwebsockets::{
    FragmentCollector, OpCode, WebSocketError,
    upgrade::{UpgradeFut, upgrade},
};
use getty_benches_harness::{accept, child, frames::MAX_PAYLOAD};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

fn main() -> ExitCode {
    child::main(&[("fastwebsockets", run)])
}

fn run(listener: TcpListener) -> io::Result<()> {
    accept::accept(listener, connection)
}

/// Serves the handshake. The session must be a separate task, so that no memory of HTTP stays
/// with it.
async fn connection(stream: TcpStream) -> io::Result<()> {
    let service = service_fn(async |mut request: Request<Incoming>| {
        let (response, upgraded) = upgrade(&mut request).expect("the load requests an upgrade");
        tokio::spawn(session(upgraded));
        Ok::<_, Infallible>(response)
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

async fn session(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_max_message_size(MAX_PAYLOAD);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes() {
        check::echoes("fastwebsockets", Protocol::WebSocket, super::run);
    }
}
