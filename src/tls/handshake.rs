//! What the two sides' handshakes have in common: how they fail, and what becomes of the connection.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, select};
use getty_core::{CloseReason, Connection, ConnectionHandle, TransportKind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use super::{TlsError, TlsInfo, TlsStream};

/// How long a handshake may take, unless it is told otherwise.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes rustls keeps that are encrypted and not yet taken by the transport. Two full records: a peer takes at
/// least so much within the write timeout or is ended by it, and a write is long enough to be worth its system call.
pub(super) const SEND_BUFFER: usize = 32 * 1024;

/// At most so many reads empty the kernel's buffer after a failure, so that closing does not reset the connection and
/// destroy the alert that says why.
const LAST_READS: usize = 16;

/// Gives `handshake` the time until `deadline`, for ever without one, or until somebody closes the connection. What fails
/// is recorded as the end of the connection.
pub(super) async fn run<T>(
    handle: &ConnectionHandle,
    timeout: Duration,
    deadline: Option<Instant>,
    handshake: impl Future<Output = Result<TlsStream<T>, TlsError>>,
) -> Result<TlsStream<T>, TlsError> {
    let handshake = async {
        match select(pin!(handshake), pin!(handle.closing())).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(TlsError::Closed),
        }
    };
    let result = match deadline {
        Some(deadline) => timeout_at(deadline, handshake)
            .await
            .unwrap_or(Err(TlsError::TimedOut(timeout))),
        None => handshake.await,
    };
    if let Err(error) = &result {
        let reason = match error {
            TlsError::TimedOut(_) => CloseReason::HandshakeTimeout,
            _ => CloseReason::Refused,
        };
        handle.close_because(reason, error.clone());
    }
    result
}

/// What tokio-rustls gives at the end of a handshake: the stream, or the error and the transport.
pub(super) async fn outcome<T, S>(
    // boxed, for a future that is given to a function is held twice, and this one is over a kilobyte
    handshake: Box<impl Future<Output = Result<S, (io::Error, T)>> + Unpin>,
) -> Result<TlsStream<T>, TlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Into<tokio_rustls::TlsStream<T>>,
{
    // over before the next wait, which would keep room for the stream otherwise
    let (error, transport) = match handshake.await {
        Ok(stream) => return Ok(TlsStream::new(stream)),
        Err(failed) => failed,
    };
    LastReads(transport).await;
    Err(TlsError::of_handshake(error))
}

/// The connection goes on over TLS.
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

/// Ends our direction, then reads what has arrived and throws it away, without waiting for more.
pub(super) struct LastReads<T>(pub(super) T);

impl<T: AsyncRead + AsyncWrite + Unpin> Future for LastReads<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let transport = &mut self.get_mut().0;
        // nothing can be made of an error here: the handshake has failed anyway
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
    async fn a_handshake_that_waits_holds_its_stream_once() {
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
