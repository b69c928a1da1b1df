//! WebSocket: getty, and the loops over tokio-tungstenite that one would write by hand.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use getty::{
    BoxError, CodecLayer, Pipeline, Request, ServiceBuilder, SessionLayer, codec::Raw, service_fn,
    ws::WsLayer,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::WebSocketConfig},
};

use super::getty::Handler;
use crate::frames::MAX_PAYLOAD;

/// Handshake, codec and session loop.
pub fn getty<T>() -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    getty_around(service_fn(echo))
}

/// Handshake, codec and session loop, around this handler.
pub fn getty_around<T>(handler: impl Handler<Bytes>) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    ServiceBuilder::new()
        .layer(
            WsLayer::new()
                .with_max_message(MAX_PAYLOAD)
                .with_max_frame(MAX_PAYLOAD),
        )
        .layer(CodecLayer::new(Raw::new().with_max_length(MAX_PAYLOAD)))
        .layer(SessionLayer::new())
        .service(handler)
}

async fn echo(request: Request<Bytes>) -> Result<Bytes, BoxError> {
    Ok(request.into_message())
}

/// What the loop that sends each message reads at once: the library zeroes its buffer before each read, and its default
/// of 128 KiB costs more than all the rest of a small message.
const READ: usize = 4 * 1024;

/// Forwards the stream of messages into the sink, which gathers them until no more are there. The settings are the
/// library's own.
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

/// Sends, and so flushes, each message by itself.
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

/// The load hangs up without a word, and that is no error here.
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
