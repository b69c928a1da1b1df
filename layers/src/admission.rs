//! Service that admits or refuses each connection.
//!
//! [`AccessLayer`](crate::AccessLayer) and [`PeerLimitLayer`](crate::PeerLimitLayer) implement
//! [`Admit`], and [`Admission`] is their service.
//!
//! - *ready*: as the inner service. A refused connection leaves the reservation for the next
//!   one.
//! - *call*: an admitted connection is passed to the inner service. A refused connection closes
//!   as [`CloseReason::Refused`], and its future fails with the error of the layer.
//! - *drop*: drops the inner future, or the refused connection.
//! - *close*: nothing by itself; see the layer.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::{Close, CloseReason, Connection};
use pin_project_lite::pin_project;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Decision of a layer about each connection.
pub trait Admit {
    /// Error of a refusal. It becomes the source of the close as well.
    type Refusal: Error + Clone + Send + Sync + 'static;

    /// Returns `Ok` if the connection may reach the inner service. Called in the task that accepts
    /// connections, so it must not block.
    ///
    /// # Errors
    ///
    /// The connection is refused.
    fn admit<T>(&self, connection: &Connection<T>) -> Result<(), Self::Refusal>;
}

/// Service of a layer that may refuse connections; see the [module](self).
#[derive(Clone, Debug)]
pub struct Admission<S, L> {
    inner: S,
    layer: L,
}

impl<S, L> Admission<S, L> {
    /// Creates a new service that passes connections to `inner` if `layer` admits them.
    pub const fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }

    getty_core::inner_service_accessors!();
}

impl<S, L, T> Service<Connection<T>> for Admission<S, L>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
    L: Admit,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, T>;

    /// Polls the inner service. A refused connection leaves the reservation for the next one, and a
    /// drop gives it back.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        match self.layer.admit(&connection) {
            Ok(()) => ResponseFuture::admitted(self.inner.call(connection)),
            Err(refusal) => ResponseFuture::refused(connection, refusal),
        }
    }
}

pin_project! {
    /// Future of [`Admission`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, T> {
        Admitted { #[pin] inner: F },
        Refused { refused: Option<(Connection<T>, BoxError)> },
    }
}

impl<F, T> ResponseFuture<F, T> {
    const fn admitted(inner: F) -> Self {
        Self {
            state: State::Admitted { inner },
        }
    }

    // The reason is recorded now, but the connection is dropped by the poll or drop of this
    // future, in the connection's task. The accepting task must not wait for the transport to
    // close and for close callbacks.
    fn refused(
        connection: Connection<T>,
        error: impl Error + Clone + Send + Sync + 'static,
    ) -> Self {
        let handle = connection.handle();
        handle.close_with(Close::new(CloseReason::Refused).with_source(error.clone()));
        Self {
            state: State::Refused {
                refused: Some((connection, error.into())),
            },
        }
    }
}

impl<F, T, Response, E> Future for ResponseFuture<F, T>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let refused = match self.project().state.project() {
            StateProj::Admitted { inner } => return inner.poll(cx).map_err(Into::into),
            StateProj::Refused { refused } => refused.take(),
        };
        let Some((connection, error)) = refused else {
            panic!("a connection's future was polled after completion");
        };
        drop(connection);
        Poll::Ready(Err(error))
    }
}

impl<F: fmt::Debug, T> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("ResponseFuture");
        match &self.state {
            State::Admitted { inner } => f.field("inner", inner),
            State::Refused { refused } => {
                f.field("refused", &refused.as_ref().map(|(_, error)| error))
            }
        };
        f.finish()
    }
}
