//! Echo with tokio-util's `Framed`.

use std::io;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;

use super::codec;

/// Forwards the stream of frames to the sink. The sink flushes when no more frames are ready.
///
/// # Errors
///
/// If the transport fails or a frame is too long.
pub async fn forward<T>(transport: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite,
{
    let (sink, stream) = Framed::new(transport, codec::tokio_util()).split();
    stream.map_ok(BytesMut::freeze).forward(sink).await
}

/// Sends each frame by itself. A send also flushes.
///
/// # Errors
///
/// If the transport fails or a frame is too long.
pub async fn send_each<T>(transport: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut framed = Framed::new(transport, codec::tokio_util());
    while let Some(frame) = framed.next().await {
        framed.send(frame?.freeze()).await?;
    }
    Ok(())
}
