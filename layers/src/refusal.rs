//! How a layer refuses a connection before it reaches the inner service.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use getty_core::{CloseReason, Connection};

type BoxError = Box<dyn Error + Send + Sync>;

pin_project! {
    /// The life of a connection that may have been refused: the inner future, or the error.
    ///
    /// The error is recorded when the connection is refused. The connection itself goes when this future is first polled
    /// or dropped, so in its own task: closing the transport and running callbacks do not hold up whoever accepts.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, T> {
        Passed { #[pin] inner: F },
        Refused { refused: Option<(Connection<T>, BoxError)> },
    }
}

impl<F, T> ResponseFuture<F, T> {
    pub(crate) const fn passed(inner: F) -> Self {
        Self {
            state: State::Passed { inner },
        }
    }

    pub(crate) fn refused(
        connection: Connection<T>,
        error: impl Error + Clone + Send + Sync + 'static,
    ) -> Self {
        let handle = connection.handle();
        handle.close_because(CloseReason::Refused, error.clone());
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
            StateProj::Passed { inner } => return inner.poll(cx).map_err(Into::into),
            StateProj::Refused { refused } => refused.take(),
        };
        let Some((connection, error)) = refused else {
            panic!("a connection's future was polled after it was ready");
        };
        drop(connection);
        Poll::Ready(Err(error))
    }
}

impl<F: fmt::Debug, T> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("ResponseFuture");
        match &self.state {
            State::Passed { inner } => f.field("inner", inner),
            State::Refused { refused } => {
                f.field("refused", &refused.as_ref().map(|(_, error)| error))
            }
        };
        f.finish()
    }
}
