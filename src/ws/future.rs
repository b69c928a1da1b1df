//! Future of a connection that begins with an opening handshake.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{Connection, hooks::Contained};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::handshake::WsHandshakeError;

type Handshake<T> = Pin<Box<dyn Future<Output = Result<Connection<T>, WsHandshakeError>> + Send>>;

pin_project! {
    /// Future of [`Ws`](super::Ws): the opening handshake, then the inner service's future.
    #[must_use = "futures do nothing unless polled"]
    pub struct WsFuture<S, T>
    where
        S: Service<Connection<T>>,
    {
        // Boxed so that it takes no room after the handshake.
        handshake: Option<(Contained<Handshake<T>>, Contained<S>)>,
        #[pin]
        inner: Option<S::Future>,
    }
}

impl<S, T> WsFuture<S, T>
where
    S: Service<Connection<T>> + Clone,
{
    /// Creates a new future. It takes the service that was polled ready and leaves a clone.
    pub(super) fn new(
        inner: &mut S,
        handshake: impl Future<Output = Result<Connection<T>, WsHandshakeError>> + Send + 'static,
    ) -> Self {
        let clone = inner.clone();
        let ready = std::mem::replace(inner, clone);
        Self {
            handshake: Some((Contained::new(Box::pin(handshake)), Contained::new(ready))),
            inner: None,
        }
    }
}

impl<S, T> Future for WsFuture<S, T>
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
                    return Poll::Ready(Err(error.into()));
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

impl<S, T> fmt::Debug for WsFuture<S, T>
where
    S: Service<Connection<T>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsFuture")
            .field("shakes_hands", &self.handshake.is_some())
            .finish_non_exhaustive()
    }
}
