//! A server's side of the handshake, on a connection of its own.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::future::{Either, select};
use getty_core::{CloseReason, Connection, ConnectionHandle, TransportKind};
use http::{HeaderValue, header};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{WsHandshakeError, WsRefusal, read_request, write_head};
use crate::ws::{WsTransport, layer::Settings};

/// Takes a connection through the handshake; `buffer` is what was read of it before.
pub(in crate::ws) async fn open<T>(
    connection: Connection<T>,
    mut buffer: BytesMut,
    settings: Arc<Settings>,
) -> Result<Connection<WsTransport<T>>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut io, connection) = connection.take_transport();
    let handle = connection.handle().clone();
    let error = match in_time(&mut io, &handle, &mut buffer, &settings).await {
        Ok(()) => {
            handle.set_transport(match handle.transport() {
                TransportKind::Tls => TransportKind::SecureWebSocket,
                _ => TransportKind::WebSocket,
            });
            let setting = settings.transport();
            return Ok(connection.map_transport(|()| WsTransport::new(io, setting, buffer)));
        }
        Err(error) => error,
    };
    let reason = match error {
        WsHandshakeError::TimedOut(_) => CloseReason::HandshakeTimeout,
        _ => CloseReason::Refused,
    };
    handle.close_because(reason, error.clone());
    drop(io);
    Err(error)
}

/// Accepts within the time there is, and no longer than until somebody closes the connection.
async fn in_time<T>(
    io: &mut T,
    handle: &ConnectionHandle,
    buffer: &mut BytesMut,
    settings: &Settings,
) -> Result<(), WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let accepted = timeout(settings.timeout, accept(io, handle, buffer, settings));
    match select(pin!(accepted), pin!(handle.closing())).await {
        Either::Left((accepted, _)) => {
            accepted.unwrap_or(Err(WsHandshakeError::TimedOut(settings.timeout)))
        }
        Either::Right(_) => Err(WsHandshakeError::Cancelled),
    }
}

/// Reads the request, decides, and answers.
async fn accept<T>(
    io: &mut T,
    handle: &ConnectionHandle,
    buffer: &mut BytesMut,
    settings: &Settings,
) -> Result<(), WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = match read_request(io, buffer, settings.head).await {
        Ok(request) => match settings.rules.decide(request, handle).await {
            Ok(response) => {
                let first = "HTTP/1.1 101 Switching Protocols";
                write_head(io, first, response.headers(), "").await?;
                return Ok(());
            }
            Err(refusal) => refusal,
        },
        Err(WsHandshakeError::Refused(refusal)) => refusal,
        Err(error) => return Err(error),
    };
    refuse(io, &refusal).await?;
    Err(refusal.into())
}

/// A peer that goes on sending after it was refused is listened to for so long and so many bytes: a connection that is
/// closed while bytes lie unread is reset, and the reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

async fn refuse<T>(io: &mut T, refusal: &WsRefusal) -> std::io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut parts, body) = refusal.response().into_parts();
    let connection = if parts.headers.contains_key(header::UPGRADE) {
        "close, Upgrade"
    } else {
        "close"
    };
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static(connection));
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    write_head(
        io,
        &format!("HTTP/1.1 {}", parts.status),
        &parts.headers,
        &body,
    )
    .await?;
    io.shutdown().await?;
    let rest = async {
        let mut left = LINGER_BYTES;
        let mut buffer = [0; 256];
        while left > 0 {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // it is the wait that is cut short, and nothing else
    let _ = timeout(LINGER, rest).await;
    Ok(())
}
