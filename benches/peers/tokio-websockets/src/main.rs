//! tokio-websockets: with batched answers and with one `send` for each message as in its echo
//! example.
//!
//! Forwarding its stream to its sink would not batch: the stream flushes queued messages before
//! it reads.

use std::{io, net::TcpListener, process::ExitCode};

use futures_util::{SinkExt, StreamExt};
use getty_benches_harness::{accept, child, frames::MAX_PAYLOAD};
use tokio::net::TcpStream;
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder, WebSocketStream};

/// Maximum number of messages in a batch.
const AT_ONCE: usize = 64;

fn main() -> ExitCode {
    child::main(&[
        ("tokio-websockets-batch", run_batch),
        ("tokio-websockets-send", run_send_each),
    ])
}

fn run_batch(listener: TcpListener) -> io::Result<()> {
    accept::accept(listener, async |stream| {
        let (mut sink, stream) = open(stream).await?.split();
        let mut batches = stream.ready_chunks(AT_ONCE);
        while let Some(batch) = batches.next().await {
            for message in batch {
                let message = message.map_err(io::Error::other)?;
                if is_data(&message) {
                    sink.feed(message).await.map_err(io::Error::other)?;
                }
            }
            sink.flush().await.map_err(io::Error::other)?;
        }
        Ok(())
    })
}

fn run_send_each(listener: TcpListener) -> io::Result<()> {
    accept::accept(listener, async |stream| {
        let mut socket = open(stream).await?;
        while let Some(Ok(message)) = socket.next().await {
            if is_data(&message) {
                socket.send(message).await.map_err(io::Error::other)?;
            }
        }
        Ok(())
    })
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn open(stream: TcpStream) -> io::Result<WebSocketStream<TcpStream>> {
    let accepted = ServerBuilder::new()
        // Returns a message in one frame, as it arrived.
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(MAX_PAYLOAD)))
        .accept(stream)
        .await;
    accepted
        .map(|(_request, socket)| socket)
        .map_err(|error: Error| io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use getty_benches_harness::{Protocol, check};

    #[test]
    fn server_echoes_in_batches() {
        check::echoes("batch", Protocol::WebSocket, super::run_batch);
    }

    #[test]
    fn server_echoes_with_one_send_per_message() {
        check::echoes("send", Protocol::WebSocket, super::run_send_each);
    }
}
