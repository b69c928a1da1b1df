//! The rest of the stack, as an argument of a layer's function.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{Closed, Connection, IntoReply, Reply, Request};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

/// The rest of the stack, for one call of a layer's function.
///
/// `S` is the inner service and `Req` the request: a [`Connection`] or a [`Request`]. The inner
/// service has been polled ready. Dropping a `Next` without [`run`](Self::run) returns the
/// permits that the service has reserved.
#[must_use = "the rest of the stack is not called unless `run` is called"]
pub struct Next<S, Req> {
    inner: S,
    request: PhantomData<fn(Req)>,
}

impl<S, Req> Next<S, Req> {
    #[inline]
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            request: PhantomData,
        }
    }
}

impl<S, T> Next<S, Connection<T>> {
    /// Runs the rest of the connection's life. The future resolves when the connection has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection as
    /// [`CloseReason::Dropped`](crate::CloseReason::Dropped).
    ///
    /// # Errors
    ///
    /// Returns the error of the inner service. The session then never opened.
    pub fn run(mut self, connection: Connection<T>) -> ConnectionFuture
    where
        S: ConnectionNext<T>,
    {
        let running = self.inner.call(connection);
        ConnectionFuture(Box::pin(async move { running.await.map_err(Into::into) }))
    }
}

impl<S, In, Out> Next<S, Request<In, Out>> {
    /// Handles the message. The future resolves to the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the future of the inner service.
    ///
    /// # Errors
    ///
    /// Returns the error of the inner service.
    #[inline]
    pub fn run(mut self, request: Request<In, Out>) -> MessageFuture<S::Future, Out>
    where
        S: Service<Request<In, Out>>,
    {
        MessageFuture {
            inner: self.inner.call(request),
            out: PhantomData,
        }
    }
}

impl<S, Req> fmt::Debug for Next<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// Inner services of [`connection_fn`](super::connection_fn), as a bound for named functions.
///
/// It is an alias. Every connection stack whose error can be boxed implements it.
pub trait ConnectionNext<T>:
    Service<
        Connection<T>,
        Response = Closed,
        Error = <Self as ConnectionNext<T>>::NextError,
        Future = <Self as ConnectionNext<T>>::NextFuture,
    >
{
    /// Error of the service.
    type NextError: Into<BoxError>;
    /// Future of the service.
    type NextFuture: Future<Output = Result<Closed, Self::NextError>> + Send + 'static;
}

impl<S, T> ConnectionNext<T> for S
where
    S: Service<Connection<T>, Response = Closed, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type NextError = S::Error;
    type NextFuture = S::Future;
}

/// Inner services of [`message_fn`](super::message_fn), as a bound for named functions.
///
/// It is an alias. Every message stack whose error can be boxed implements it.
pub trait MessageNext<In, Out = In>:
    Service<
        Request<In, Out>,
        Response = <Self as MessageNext<In, Out>>::NextReply,
        Error = <Self as MessageNext<In, Out>>::NextError,
        Future = <Self as MessageNext<In, Out>>::NextFuture,
    >
{
    /// Response of the service.
    type NextReply: IntoReply<Out>;
    /// Error of the service.
    type NextError: Into<BoxError>;
    /// Future of the service.
    type NextFuture: Future<Output = Result<Self::NextReply, Self::NextError>>;
}

impl<S, In, Out> MessageNext<In, Out> for S
where
    S: Service<Request<In, Out>, Response: IntoReply<Out>, Error: Into<BoxError>>,
{
    type NextReply = S::Response;
    type NextError = S::Error;
    type NextFuture = S::Future;
}

/// Future of [`Next::run`] for a connection. It is boxed, which costs an allocation for each
/// connection.
// The future of a connection stack contains projections such as `<S as Service<_>>::Future`.
// In a coroutine their regions are erased, and the compiler cannot prove `Send` for them
// (rust-lang/rust#110338). A boxed future has no such types.
#[must_use = "futures do nothing unless polled"]
pub struct ConnectionFuture(Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>);

impl Future for ConnectionFuture {
    type Output = Result<Closed, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ConnectionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Future of [`Next::run`] for a message.
    #[must_use = "futures do nothing unless polled"]
    pub struct MessageFuture<F, Out> {
        #[pin]
        inner: F,
        out: PhantomData<fn(Out)>,
    }
}

impl<F, R, E, Out> Future for MessageFuture<F, Out>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply<Out>,
    E: Into<BoxError>,
{
    type Output = Result<Reply<Out>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().inner.poll(cx)) {
            Ok(reply) => Ok(reply.into_reply()),
            Err(error) => Err(error.into()),
        })
    }
}

impl<F, Out> fmt::Debug for MessageFuture<F, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageFuture").finish_non_exhaustive()
    }
}
