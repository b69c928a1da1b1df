//! WebSocket servers: getty and hand-written loops with tokio-tungstenite.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use getty::{
    CodecLayer, Pipeline, ServiceBuilder, SessionLayer,
    codec::Raw,
    service_fn,
    ws::{Deflate, WsLayer},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::WebSocketConfig},
};

use super::getty::{Handler, echo};
use crate::frames::MAX_PAYLOAD;

/// Creates a stack with handshake, codec and session loop.
pub fn getty<T>() -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    getty_around(service_fn(echo))
}

/// Returns settings that compress every message which becomes shorter.
#[must_use]
pub fn deflate() -> Deflate {
    Deflate::new().with_threshold(0)
}

/// Creates the stack of [`getty()`] with or without compression.
pub fn getty_with<T>(deflate: Option<Deflate>) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    around(deflate, service_fn(echo))
}

/// Creates a stack with handshake, codec and session loop for a given handler.
pub fn getty_around<T>(handler: impl Handler<Bytes>) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    around(None, handler)
}

fn around<T>(deflate: Option<Deflate>, handler: impl Handler<Bytes>) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let layer = WsLayer::new()
        .with_max_message(MAX_PAYLOAD)
        .with_max_frame(MAX_PAYLOAD);
    ServiceBuilder::new()
        .layer(match deflate {
            Some(deflate) => layer.with_deflate(deflate),
            None => layer,
        })
        .layer(CodecLayer::new(Raw::new().with_max_length(MAX_PAYLOAD)))
        .layer(SessionLayer::new())
        .service(handler)
}

/// Read buffer of [`send_each`], in bytes.
///
/// The library zeroes its buffer before each read. With its default of 128 KiB that would cost
/// more than everything else for a small message.
const READ: usize = 4 * 1024;

/// Forwards the stream of messages to the sink with the default settings of the library.
///
/// The sink flushes when no more messages are ready.
///
/// # Errors
///
/// If the transport or the protocol fails.
pub async fn forward<T>(transport: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, stream) = accept(transport, WebSocketConfig::default()).await?.split();
    ended(stream.forward(sink).await)
}

/// Sends each message by itself. A send also flushes.
///
/// # Errors
///
/// If the transport or the protocol fails.
pub async fn send_each<T>(transport: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut socket = accept(transport, WebSocketConfig::default().read_buffer_size(READ)).await?;
    while let Some(message) = socket.next().await {
        let outcome = match message {
            Ok(message) => socket.send(message).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            return ended(outcome);
        }
    }
    Ok(())
}

async fn accept<T>(transport: T, config: WebSocketConfig) -> io::Result<WebSocketStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    tokio_tungstenite::accept_async_with_config(transport, Some(config))
        .await
        .map_err(io::Error::other)
}

/// Maps the end of a session. The load may close without a close frame, which is not an error
/// here.
fn ended(outcome: tungstenite::Result<()>) -> io::Result<()> {
    use tungstenite::{Error, error::ProtocolError};
    match outcome {
        Ok(())
        | Err(
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
        ) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}
