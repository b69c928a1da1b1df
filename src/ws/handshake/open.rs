//! Opening handshake of a server on one connection.

use std::sync::Arc;

use bytes::BytesMut;
use getty_core::{
    Close, CloseReason, Connection, ConnectionHandle, TransportKind, hooks::HandleExt,
};
use http::{HeaderValue, header};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    error::WsHandshakeError,
    head::{read_request, write_head},
    refusal::WsRefusal,
    settings::ServerSettings,
};
use crate::{
    transport::{Interrupted, shutdown_and_linger, uninterrupted},
    ws::{deflate::PerMessage, transport::WsTransport},
};

/// Runs the opening handshake of a connection. `buffer` contains the bytes that were already
/// read.
pub(in crate::ws) async fn open<T>(
    connection: Connection<T>,
    mut buffer: BytesMut,
    settings: Arc<ServerSettings>,
) -> Result<Connection<WsTransport<T>>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (io, connection) = connection.take_transport();
    // Declared after `connection`, so that it is dropped first with this future.
    let mut io = io;
    let handle = connection.handle().clone();
    let error = match accept_in_time(&mut io, &handle, &mut buffer, &settings).await {
        Ok(deflate) => {
            handle.set_transport(match handle.transport() {
                TransportKind::Tls => TransportKind::SecureWebSocket,
                _ => TransportKind::WebSocket,
            });
            let transport = settings.transport();
            return Ok(
                connection.map_transport(|()| WsTransport::new(io, transport, deflate, buffer))
            );
        }
        Err(error) => error,
    };
    let reason = match error {
        WsHandshakeError::TimedOut(_) => CloseReason::HandshakeTimeout,
        _ => CloseReason::Refused,
    };
    handle.close_with(Close::new(reason).with_source(error.clone()));
    drop(io);
    Err(error)
}

/// Runs [`accept`] until the timeout, or until the connection is closed.
async fn accept_in_time<T>(
    io: &mut T,
    handle: &ConnectionHandle,
    buffer: &mut BytesMut,
    settings: &ServerSettings,
) -> Result<Option<PerMessage>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now().checked_add(settings.timeout);
    let accepted = accept(io, handle, buffer, settings);
    match uninterrupted(handle, deadline, accepted).await {
        Ok(accepted) => accepted,
        Err(Interrupted::TimedOut) => Err(WsHandshakeError::TimedOut(settings.timeout)),
        Err(Interrupted::Closed) => Err(WsHandshakeError::Cancelled),
    }
}

/// Reads the request, decides and sends the response. Returns the agreed compression.
async fn accept<T>(
    io: &mut T,
    handle: &ConnectionHandle,
    buffer: &mut BytesMut,
    settings: &ServerSettings,
) -> Result<Option<PerMessage>, WsHandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = match read_request(io, buffer, settings.head).await {
        Ok(request) => match settings.decide(request, handle).await {
            Ok((response, deflate)) => {
                let first = "HTTP/1.1 101 Switching Protocols";
                write_head(io, first, response.headers(), "").await?;
                return Ok(deflate);
            }
            Err(refusal) => refusal,
        },
        Err(WsHandshakeError::Refused(refusal)) => refusal,
        Err(error) => return Err(error),
    };
    refuse(io, &refusal).await?;
    Err(refusal.into())
}

/// Sends a refusal and reads until the peer closes or a limit is reached.
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
    shutdown_and_linger(io).await
}
