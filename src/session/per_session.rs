//! A message stack of its own for each session.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_layers::{
    CloseReason, Closed, Connection, IntoReply, Request, Session, SharedError, driver::Lease,
};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{
    PerSession, Sessions,
    config::Config,
    future::SessionFuture,
    ready::unconstrained,
    renew::{Own, SharedStack},
    wire::Wire,
};

impl<M, S, W> Service<Connection<W>> for Sessions<M, PerSession>
where
    W: Wire,
    M: Service<Session<W::Out>, Response = S, Error: Into<BoxError>> + SharedStack,
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = OpeningFuture<M, S, W>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection<W>) -> Self::Future {
        let (wire, lease) = connection.into_parts();
        let parts = Parts {
            wire,
            lease,
            config: Arc::clone(&self.config),
        };
        OpeningFuture {
            state: Opening::Ready {
                make: self.inner.for_session(),
                parts: Some(parts),
            },
        }
    }
}

pin_project! {
    /// The life of a session whose message stack is made first.
    #[must_use = "futures do nothing unless polled"]
    pub struct OpeningFuture<M, S, W>
    where
        M: Service<Session<W::Out>>,
        S: Service<Request<W::In, W::Out>>,
        W: Wire,
    {
        #[pin]
        state: Opening<M, S, W>,
    }
}

struct Parts<W> {
    wire: W,
    lease: Lease,
    config: Arc<Config>,
}

pin_project! {
    #[project = OpeningProj]
    enum Opening<M, S, W>
    where
        M: Service<Session<W::Out>>,
        S: Service<Request<W::In, W::Out>>,
        W: Wire,
    {
        Ready { make: M, parts: Option<Parts<W>> },
        Making { #[pin] future: M::Future, parts: Option<Parts<W>> },
        Open { #[pin] future: SessionFuture<S, W, Own> },
    }
}

impl<M, S, W> Future for OpeningFuture<M, S, W>
where
    M: Service<Session<W::Out>, Response = S, Error: Into<BoxError>>,
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
{
    type Output = Result<Closed, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                OpeningProj::Ready { make, parts } => {
                    let ready = poll_unless_closing(parts, cx, |cx| {
                        unconstrained(cx, |cx| make.poll_ready(cx))
                    });
                    ready!(ready)?;
                    let session = session(parts).clone();
                    Opening::Making {
                        future: make.call(session),
                        parts: parts.take(),
                    }
                }
                OpeningProj::Making { future, parts } => {
                    let service = ready!(poll_unless_closing(parts, cx, |cx| future.poll(cx)))?;
                    let Some(Parts {
                        wire,
                        lease,
                        config,
                    }) = parts.take()
                    else {
                        unreachable!("the parts are there until the session opens")
                    };
                    Opening::Open {
                        future: SessionFuture::new(service, Own, wire, lease, config),
                    }
                }
                OpeningProj::Open { future } => return future.poll(cx),
            };
            state.set(next);
        }
    }
}

/// Polls one step of the opening. An error refuses the connection, and so does a close that comes first.
fn poll_unless_closing<W: Wire, T, E: Into<BoxError>>(
    parts: &mut Option<Parts<W>>,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<Result<T, E>>,
) -> Poll<Result<T, BoxError>> {
    let Some(Parts { wire, .. }) = parts else {
        panic!("a session's future was polled after it was ready");
    };
    wire.driver().turn(cx);
    if !wire.session().is_closing() {
        match ready!(poll(cx)) {
            Ok(value) => return Poll::Ready(Ok(value)),
            Err(error) => wire.session().close_because(CloseReason::Refused, error),
        }
    }
    let error = NotOpened {
        reason: wire.session().reason().unwrap_or(CloseReason::Refused),
        source: wire.session().source(),
    };
    *parts = None;
    Poll::Ready(Err(Box::new(error)))
}

fn session<W: Wire>(parts: &Option<Parts<W>>) -> &Session<W::Out> {
    match parts {
        Some(parts) => parts.wire.session(),
        None => unreachable!("the parts are there until the session opens"),
    }
}

impl From<Closed> for NotOpened {
    fn from(closed: Closed) -> Self {
        Self {
            reason: closed.reason,
            source: closed.source,
        }
    }
}

/// The error when a connection was closed before its session opened: a pipeline's, or [`connect`](crate::connect)'s.
#[derive(Clone, Debug)]
pub struct NotOpened {
    reason: CloseReason,
    source: Option<SharedError>,
}

impl NotOpened {
    /// Why it was closed.
    #[must_use]
    pub const fn reason(&self) -> &CloseReason {
        &self.reason
    }
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session did not open: {}", self.reason)
    }
}

impl Error for NotOpened {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
