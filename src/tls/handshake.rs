//! Common parts of both sides' handshakes: deadline, failure and the resulting connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use getty_core::{
    Close, CloseReason, Connection, ConnectionHandle, TransportKind, hooks::HandleExt,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{error::TlsError, info::TlsInfo, stream::TlsStream};
use crate::transport::{Interrupted, uninterrupted};

/// Default time for a handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of encrypted bytes that rustls buffers until the transport takes them: two
/// full records. A peer must take this amount within the write timeout. It is enough for an
/// efficient system call.
pub(super) const SEND_BUFFER: usize = 32 * 1024;

/// Maximum number of reads that empty the kernel's buffer after a failure. Closing a socket
/// with unread bytes would reset the connection and destroy the alert with the reason.
const LAST_READS: usize = 16;

/// Runs a handshake or a part until it is complete or the `deadline` passes. It also ends if
/// the connection is closed. A failure closes the connection.
pub(super) async fn run<R>(
    handle: &ConnectionHandle,
    timeout: Duration,
    deadline: Option<Instant>,
    handshake: impl Future<Output = Result<R, TlsError>>,
) -> Result<R, TlsError> {
    let result = match uninterrupted(handle, deadline, handshake).await {
        Ok(result) => result,
        Err(Interrupted::TimedOut) => Err(TlsError::TimedOut(timeout)),
        Err(Interrupted::Closed) => Err(TlsError::Cancelled),
    };
    if let Err(error) = &result {
        let reason = match error {
            TlsError::TimedOut(_) => CloseReason::HandshakeTimeout,
            _ => CloseReason::Refused,
        };
        handle.close_with(Close::new(reason).with_source(error.clone()));
    }
    result
}

/// Returns the result of tokio-rustls: the stream, or the error after the transport was
/// drained.
pub(super) async fn outcome<T, S>(
    // Boxed because a future that is passed to a function is stored twice, and this one exceeds a
    // kilobyte.
    handshake: Box<impl Future<Output = Result<S, (io::Error, T)>> + Unpin>,
) -> Result<TlsStream<T>, TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Into<tokio_rustls::TlsStream<T>>,
{
    // The match ends before the next wait so that the future keeps no room for the stream.
    let (error, transport) = match handshake.await {
        Ok(stream) => return Ok(TlsStream::new(stream)),
        Err(failed) => failed,
    };
    Drain(transport).await;
    Err(TlsError::from_handshake(error))
}

/// Returns the connection with its new transport and sets the attributes of its handle.
pub(super) fn secured<T>(
    rest: Connection<()>,
    stream: TlsStream<T>,
    info: TlsInfo,
) -> Connection<TlsStream<T>> {
    let handle = rest.handle();
    handle.set_transport(TransportKind::Tls);
    handle.insert(info);
    rest.map_transport(|()| stream)
}

/// Ends our direction, then discards the bytes that have arrived. It does not wait for more.
pub(super) struct Drain<T>(pub(super) T);

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Drain<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let transport = &mut self.get_mut().0;
        // The handshake has failed already, so an error here adds nothing.
        let _ = ready!(Pin::new(&mut *transport).poll_shutdown(cx));
        let mut block = [0; 4096];
        for _ in 0..LAST_READS {
            let mut block = ReadBuf::new(&mut block);
            match Pin::new(&mut *transport).poll_read(cx, &mut block) {
                Poll::Ready(Ok(())) if !block.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::io::{DuplexStream, duplex};
    use tokio_rustls::server;

    use super::*;

    #[tokio::test]
    async fn waiting_handshake_stores_its_stream_once() {
        type Failed = Result<server::TlsStream<DuplexStream>, (io::Error, DuplexStream)>;
        let failed: Failed = Err((io::ErrorKind::UnexpectedEof.into(), duplex(8).0));
        assert!(size_of_val(&failed) > 1024);
        let handle = Connection::new(()).handle().clone();
        let outcome = outcome(Box::new(ready(failed)));
        let handshake = run(&handle, HANDSHAKE_TIMEOUT, None, outcome);
        assert!(size_of_val(&handshake) < 768, "{}", size_of_val(&handshake));
        assert!(handshake.await.is_err());
    }
}
