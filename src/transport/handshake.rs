//! Future of a connection that begins with a handshake, for layers that replace the transport.

use std::{
    fmt,
    future::Future,
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, select};
use getty_core::{Connection, ConnectionHandle, hooks::Contained};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};
use tower::{BoxError, Service};

pin_project! {
    /// A handshake, then the inner service's call.
    ///
    /// It is the future of layers that exchange bytes with the peer before the inner service
    /// may have the connection. `S` is the inner service and `T` its transport.
    ///
    /// - The inner service that was polled ready is kept with its reservation until the
    ///   handshake ends. A failed handshake drops it.
    /// - The handshake is boxed, so that it takes no room afterwards.
    /// - Dropped, it drops the handshake with its transport, then the service.
    ///
    /// # Panics
    ///
    /// Panics if it is polled after it was ready.
    #[must_use = "futures do nothing unless polled"]
    pub struct HandshakeFuture<S, T>
    where
        S: Service<Connection<T>>,
    {
        handshake: Option<(Contained<Handshake<T>>, Contained<S>)>,
        #[pin]
        inner: Option<S::Future>,
    }
}

type Handshake<T> = BoxFuture<'static, Result<Connection<T>, BoxError>>;

impl<S, T> HandshakeFuture<S, T>
where
    S: Service<Connection<T>> + Clone,
{
    /// Creates a new future that runs `handshake` and then calls `inner`, which must have been
    /// polled ready. The future takes this instance with its reservation and leaves a clone.
    ///
    /// The handshake should close the connection with a reason before it fails. A connection
    /// that it drops without one closes as [`Refused`](crate::CloseReason::Refused).
    pub fn new<E: Into<BoxError>>(
        inner: &mut S,
        handshake: impl Future<Output = Result<Connection<T>, E>> + Send + 'static,
    ) -> Self {
        let clone = inner.clone();
        let service = mem::replace(inner, clone);
        let handshake: Handshake<T> = Box::pin(async { handshake.await.map_err(Into::into) });
        Self {
            handshake: Some((Contained::new(handshake), Contained::new(service))),
            inner: None,
        }
    }
}

impl<S, T> Future for HandshakeFuture<S, T>
where
    S: Service<Connection<T>, Error: Into<BoxError>>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some((handshake, service)) = this.handshake {
            let opened = ready!(handshake.as_mut().poll(cx));
            match opened {
                Ok(connection) => this.inner.set(Some(service.call(connection))),
                Err(error) => {
                    *this.handshake = None;
                    return Poll::Ready(Err(error));
                }
            }
            *this.handshake = None;
        }
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll(cx).map_err(Into::into),
            None => panic!("a connection's future was polled after it was ready"),
        }
    }
}

impl<S, T> fmt::Debug for HandshakeFuture<S, T>
where
    S: Service<Connection<T>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeFuture")
            .field("in_handshake", &self.handshake.is_some())
            .finish_non_exhaustive()
    }
}

/// Cause that ends a handshake from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The deadline has passed.
    TimedOut,
    /// The connection was closed.
    Closed,
}

/// Runs a part of a handshake until it is complete, the `deadline` passes, or the connection is
/// closed. `None` is no deadline.
pub(crate) async fn uninterrupted<F: Future>(
    handle: &ConnectionHandle,
    deadline: Option<Instant>,
    part: F,
) -> Result<F::Output, Interrupted> {
    let until_closed = async {
        match select(pin!(part), pin!(handle.closing())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(Interrupted::Closed),
        }
    };
    match deadline {
        Some(deadline) => timeout_at(deadline, until_closed)
            .await
            .unwrap_or(Err(Interrupted::TimedOut)),
        None => until_closed.await,
    }
}

/// Time for which bytes are read after a shutdown.
const LINGER: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read after a shutdown.
const LINGER_BYTES: usize = 256 * 1024;

/// Ends our direction, then reads until the peer closes or a limit is reached. Closing a socket
/// with unread bytes resets the connection, and the reset may overtake the last message.
pub(crate) async fn shutdown_and_linger<T>(io: &mut T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.shutdown().await?;
    let rest = async {
        let mut remaining = LINGER_BYTES;
        let mut block = [0; 512];
        while remaining > 0
            && let Ok(read @ 1..) = io.read(&mut block).await
        {
            remaining = remaining.saturating_sub(read);
        }
    };
    // After the timeout nothing else needs to be done.
    let _ = timeout(LINGER, rest).await;
    Ok(())
}
