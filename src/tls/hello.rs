//! The server's side of a handshake, whose first message is bounded.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{
    FallibleAccept, LazyConfigAcceptor,
    rustls::{
        ServerConfig,
        server::{Accepted, Acceptor},
    },
    server::StartHandshake,
};

use super::{
    TlsError, TlsStream,
    handshake::{LastReads, SEND_BUFFER, outcome},
};

/// Maximum size of a `ClientHello` with its record headers, unless it is set otherwise, in bytes.
/// rustls would buffer 64 KiB. Hellos with post-quantum key shares, a session ticket and an
/// encrypted name take up to some 3 KiB. A stalled handshake holds 21 KB with this bound, 37 KB
/// with 16 KiB (benches/README.md).
pub(super) const MAX_HELLO: usize = 12 * 1024;

/// A fatal alert, `illegal_parameter`, in a record.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 47];

/// Runs a handshake whose `ClientHello` may have at most `max_hello` bytes.
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
        mut transport,
        left,
    }) = hello.take_io()
    else {
        unreachable!("the transport is taken only by a hello that is complete")
    };
    drop(hello);
    let error = if left == 0 && error.kind() == io::ErrorKind::QuotaExceeded {
        // the handshake has failed, even if the peer does not read this
        let _ = transport.write_all(&ALERT).await;
        TlsError::HelloTooLong(max_hello)
    } else {
        TlsError::of_handshake(error)
    };
    LastReads(transport).await;
    Err(error)
}

// functions, because a future keeps room for everything that is made in it

fn hello<T>(transport: T, max_hello: usize) -> Box<LazyConfigAcceptor<Bounded<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let bounded = Bounded {
        transport,
        left: max_hello,
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

/// A transport from which a bounded number of bytes can be read.
struct Bounded<T> {
    transport: T,
    left: usize,
}

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let most = this.left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let polled = Pin::new(&mut this.transport).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        this.left -= read;
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
