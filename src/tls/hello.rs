//! Server side of a handshake with a bounded first message.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{
    FallibleAccept, LazyConfigAcceptor, StartHandshake,
    rustls::{
        ServerConfig,
        server::{Accepted, Acceptor},
    },
};

use super::{
    error::TlsError,
    handshake::{Drain, SEND_BUFFER, outcome},
    stream::TlsStream,
};

/// Default maximum of a `ClientHello` with its record headers, in bytes. rustls would buffer
/// 64 KiB. Hellos with post-quantum key shares, a session ticket and an encrypted name take up
/// to some 3 KiB. A stalled handshake holds 21 KB with this maximum. With 16 KiB it would hold
/// 37 KB (benches/README.md).
pub(super) const MAX_HELLO: usize = 12 * 1024;

/// Runs a handshake whose `ClientHello` may have at most `max_hello` bytes.
// (design.md: Why is a `ClientHello` read apart from the rest of a handshake?)
pub(super) async fn accept<T>(
    config: Arc<ServerConfig>,
    transport: T,
    max_hello: usize,
) -> Result<TlsStream<T>, TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (accepted, transport) = read_hello(hello(transport, max_hello), max_hello).await?;
    outcome(rest(config, accepted, transport)).await
}

/// Reads a `ClientHello` of at most `max_hello` bytes. Boxed because a choice may wait with it.
pub(super) async fn receive<T>(
    transport: T,
    max_hello: usize,
) -> Result<(Box<Accepted>, T), TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    boxed(read_hello(hello(transport, max_hello), max_hello).await)
}

/// Runs the rest of a handshake whose `ClientHello` was [received](receive).
pub(super) async fn answer<T>(
    config: Arc<ServerConfig>,
    accepted: Box<Accepted>,
    transport: T,
) -> Result<TlsStream<T>, TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    outcome(rest(config, *accepted, transport)).await
}

/// Sends the alert of `error` and ends the transport.
pub(super) async fn refuse<T>(mut transport: T, error: TlsError) -> TlsError
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Record with a fatal alert.
    let alert = [21, 3, 3, 0, 2, 2, u8::from(error.alert())];
    // The handshake has failed, whether the peer receives the alert or not.
    let _ = transport.write_all(&alert).await;
    Drain(transport).await;
    error
}

async fn read_hello<T>(
    mut hello: Box<LazyConfigAcceptor<Bounded<T>>>,
    max_hello: usize,
) -> Result<(Accepted, T), TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let error = match (&mut *hello).await {
        Ok(StartHandshake { accepted, io, .. }) => return Ok((accepted, io.transport)),
        Err(error) => error,
    };
    let Some(Bounded {
        transport,
        remaining,
    }) = hello.take_io()
    else {
        unreachable!("only a complete hello takes the transport")
    };
    drop(hello);
    if remaining == 0 && error.kind() == io::ErrorKind::QuotaExceeded {
        return Err(refuse(transport, TlsError::HelloTooLong(max_hello)).await);
    }
    Drain(transport).await;
    Err(TlsError::from_handshake(error))
}

// Separate functions because a future keeps room for every value that is created in it.

fn boxed<T>(read: Result<(Accepted, T), TlsError>) -> Result<(Box<Accepted>, T), TlsError> {
    read.map(|(accepted, transport)| (Box::new(accepted), transport))
}

fn hello<T>(transport: T, max_hello: usize) -> Box<LazyConfigAcceptor<Bounded<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let bounded = Bounded {
        transport,
        remaining: max_hello,
    };
    Box::new(LazyConfigAcceptor::new(Acceptor::default(), bounded))
}

fn rest<T>(config: Arc<ServerConfig>, accepted: Accepted, transport: T) -> Box<FallibleAccept<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let start = StartHandshake::from_parts(accepted, transport);
    let accept = start.into_stream_with(config, |tls| tls.set_buffer_limit(Some(SEND_BUFFER)));
    Box::new(accept.into_fallible())
}

/// Transport with a maximum number of bytes that can be read.
struct Bounded<T> {
    transport: T,
    remaining: usize,
}

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.remaining == 0 {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let max = this.remaining.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
        let polled = Pin::new(&mut this.transport).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        this.remaining -= read;
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bounded<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
