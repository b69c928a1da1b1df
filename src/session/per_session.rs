//! Makes a message stack for each session before it opens.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{
    Close, CloseReason, Closed, Connection, IntoReply, Panic, Request, Session, SharedError,
};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{
    PerSession, Sessions,
    catch::catch_panics,
    framed_transport::FramedTransport,
    future::SessionFuture,
    schedule::unconstrained,
    stack::{MessageStack, SharedStack, StackSource, sealed::Sealed},
};

impl<M, S, W> Service<Connection<W>> for Sessions<M, PerSession>
where
    W: FramedTransport,
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
        let session = connection.transport().session().clone();
        let source = OwnedStack::new(self.inner.for_session(), session);
        let (wire, guard) = connection.into_parts();
        let config = Arc::clone(&self.config);
        OpeningFuture {
            session: SessionFuture::new(None, source, wire, guard, config),
        }
    }
}

pin_project! {
    /// Future of a session whose message stack is made before it opens.
    ///
    /// Resolves to the record of the session, or to [`NotOpened`]. Dropping it ends the session at
    /// once.
    #[must_use = "futures do nothing unless polled"]
    pub struct OpeningFuture<M, S, W>
    where
        M: Service<Session<W::Out>>,
        S: Service<Request<W::In, W::Out>>,
        W: FramedTransport,
    {
        #[pin]
        session: SessionFuture<S, W, OwnedStack<M, W::Out>>,
    }
}

impl<M, S, W> Future for OpeningFuture<M, S, W>
where
    M: Service<Session<W::Out>, Response = S, Error: Into<BoxError>>,
    S: MessageStack<W>,
    W: FramedTransport,
{
    type Output = Result<Closed, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().session.poll_end(cx, |closed, was_open| {
            if was_open {
                Ok(closed)
            } else {
                Err(NotOpened::from(closed).into())
            }
        })
    }
}

impl<M, S, W> fmt::Debug for OpeningFuture<M, S, W>
where
    M: Service<Session<W::Out>>,
    S: Service<Request<W::In, W::Out>>,
    W: FramedTransport,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningFuture")
            .field("session", &self.session)
            .finish()
    }
}

/// The make-service of one session until the session's stack is made. Takes one word
/// afterwards. The session loop polls it (design.md: Why does the session loop poll the
/// make-service of `per_session`?). The stack is never replaced, because it holds the state of
/// its session.
pub struct OwnedStack<M: Service<Session<Out>>, Out>(Option<PinnedStep<M, Out>>);

type PinnedStep<M, Out> = Pin<Box<Step<M, Out, <M as Service<Session<Out>>>::Future>>>;

pin_project! {
    #[project = StepProj]
    enum Step<M, Out, F> {
        PollReady { make: M, session: Session<Out> },
        Call { #[pin] stack: F, session: Session<Out> },
    }
}

impl<M: Service<Session<Out>>, Out> OwnedStack<M, Out> {
    fn new(make: M, session: Session<Out>) -> Self {
        Self(Some(Box::pin(Step::PollReady { make, session })))
    }
}

impl<M, Out> OwnedStack<M, Out>
where
    M: Service<Session<Out>, Error: Into<BoxError>>,
{
    /// Resolves to the stack, or to `None` if an error or a panic has closed the session. Pending
    /// once the session closes.
    fn poll(step: &mut PinnedStep<M, Out>, cx: &mut Context<'_>) -> Poll<Option<M::Response>> {
        let (StepProj::PollReady { session, .. } | StepProj::Call { session, .. }) =
            step.as_mut().project();
        if session.is_closing() {
            return Poll::Pending;
        }
        let polled = Panic::catch(|| {
            loop {
                let call = match step.as_mut().project() {
                    StepProj::PollReady { make, session } => {
                        ready!(unconstrained(cx, |cx| make.poll_ready(cx)))?;
                        Step::Call {
                            stack: make.call(session.clone()),
                            session: session.clone(),
                        }
                    }
                    StepProj::Call { stack, .. } => return stack.poll(cx),
                };
                // The make-service is not needed any more. It may panic when it is dropped.
                catch_panics(|| step.set(call));
            }
        });
        let (reason, error) = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(stack))) => return Poll::Ready(Some(stack)),
            Ok(Poll::Ready(Err(error))) => (CloseReason::Refused, error.into()),
            Err(panic) => (CloseReason::Panicked, panic.into()),
        };
        let (StepProj::PollReady { session, .. } | StepProj::Call { session, .. }) =
            step.as_mut().project();
        session.close_with(Close::new(reason).with_source(error));
        Poll::Ready(None)
    }
}

impl<M: Service<Session<Out>>, Out> Sealed for OwnedStack<M, Out> {}

impl<M, Out> StackSource<M::Response> for OwnedStack<M, Out>
where
    M: Service<Session<Out>, Error: Into<BoxError>>,
{
    fn fresh(&self) -> Option<M::Response> {
        None
    }

    fn poll_make(&mut self, service: &mut Option<M::Response>, cx: &mut Context<'_>) -> bool {
        let Some(step) = &mut self.0 else {
            return false;
        };
        let Poll::Ready(made) = Self::poll(step, cx) else {
            return true;
        };
        *service = made;
        self.stop_making();
        service.is_none()
    }

    fn stop_making(&mut self) {
        catch_panics(|| self.0 = None);
    }
}

impl<M: Service<Session<Out>>, Out> fmt::Debug for OwnedStack<M, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedStack")
            .field("done", &self.0.is_none())
            .finish()
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

/// The error when a connection was closed before its session opened.
///
/// A pipeline over [`SessionLayer::per_session`](crate::SessionLayer::per_session) fails with
/// it, for any reason of the close, and so does [`connect`](crate::connect). Over a shared
/// stack only a layer can delay the opening, and the pipeline's response is the [`Closed`].
#[derive(Clone, Debug)]
pub struct NotOpened {
    reason: CloseReason,
    source: Option<SharedError>,
}

impl NotOpened {
    /// Returns the reason of the close.
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
