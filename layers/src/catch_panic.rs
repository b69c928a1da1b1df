//! Turns panics into errors, on either side of `SessionLayer`, or into replies.
//!
//! Around connections it answers for the layers inside it, such as handshakes; a session's own panics are caught by the
//! session loop in any case.
//!
//! - *ready*: the inner service's. On the connection side a panic in it is a readiness error, which ends accepting in an
//!   orderly way instead of tearing it down; on the message side it passes through, to the session loop.
//! - *call*: a panic in the call or in its future becomes an error: a [`Panic`] with the panic's message. The connection
//!   closes as [`CloseReason::Panicked`](getty_core::CloseReason::Panicked), with the same as its source, even where the
//!   panic's unwinding drops the connection.
//! - *drop*: drops the inner future.
//! - *close*: nothing of its own.
//!
//! Around messages the error is the handler's, so that it closes the session, as `Panicked`, unless something outside
//! answers for it: a [`HandleErrorLayer`](crate::HandleErrorLayer), which sees a `Panic` among other errors, or
//! [`CatchPanicLayer::with_reply`], which answers for panics alone.
//!
//! Scope: connection, or message. On the connection side it stands outside whatever may panic before the session is
//! open, and inside what is to see the error. On the message side it is of use inside layers that run their calls
//! elsewhere, and where panics are to be answered; it stands outside whatever may panic.
//!
//! ```
//! use getty_core::{CloseReason, Connection, Panic};
//! use getty_layers::CatchPanicLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let stack = ServiceBuilder::new()
//!     .layer(CatchPanicLayer::new())
//!     .service_fn(|connection: Connection<u8>| async move {
//!         assert!(*connection.transport() < 7, "a bad handshake");
//!         Ok::<_, BoxError>(())
//!     });
//! let connection = Connection::new(7);
//! let handle = connection.handle().clone();
//! let error = stack.oneshot(connection).await.unwrap_err();
//! assert_eq!(error.downcast::<Panic>().unwrap().to_string(), "a bad handshake");
//! assert_eq!(handle.closed().await.reason, CloseReason::Panicked);
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{
    Connection, IntoReply, Panic, Reply, Request,
    internal::{Catcher, catch, contain},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Turns panics into errors or replies; see the [module](self).
#[derive(Clone)]
pub struct CatchPanicLayer<H = ()> {
    handler: H,
}

impl CatchPanicLayer {
    /// A panic becomes an error, which is a [`Panic`]. For connections and for messages.
    #[must_use]
    pub const fn new() -> Self {
        Self { handler: () }
    }

    /// A panic becomes what `handler` makes of it: a message, an `Option` or `Vec` of it, or a [`Reply`] that also
    /// closes. For messages only. The session then goes on with a fresh clone of the message stack. By default a panic
    /// is an error, a [`Panic`].
    ///
    /// ```
    /// use getty_core::Reply;
    /// use getty_layers::CatchPanicLayer;
    ///
    /// let layer = CatchPanicLayer::new()
    ///     .with_reply(|panic| Reply::one(format!("ERR internal: {panic}")).and_close());
    /// ```
    // the bound on the closure is what lets its argument's type go unwritten
    pub fn with_reply<H, R>(self, handler: H) -> CatchPanicLayer<H>
    where
        H: Fn(Panic) -> R + Clone,
    {
        CatchPanicLayer { handler }
    }
}

impl Default for CatchPanicLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> fmt::Debug for CatchPanicLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanicLayer")
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, H: Clone> Layer<S> for CatchPanicLayer<H> {
    type Service = CatchPanic<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        CatchPanic {
            inner,
            handler: self.handler.clone(),
        }
    }
}

/// The service that [`CatchPanicLayer`] makes.
#[derive(Clone)]
pub struct CatchPanic<S, H = ()> {
    inner: S,
    handler: H,
}

impl<S> CatchPanic<S> {
    /// Wraps `inner`, as [`CatchPanicLayer::new`] does.
    pub const fn new(inner: S) -> Self {
        Self { inner, handler: () }
    }
}

impl<S, H> CatchPanic<S, H> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug, H> fmt::Debug for CatchPanic<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanic")
            .field("inner", &self.inner)
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, T> Service<Connection<T>> for CatchPanic<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    /// The inner service's, or a [`Panic`].
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match catch(|| self.inner.poll_ready(cx)) {
            Ok(ready) => ready.map_err(Into::into),
            Err(panic) => Poll::Ready(Err(panic.into())),
        }
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let catcher = Catcher::new(connection.handle().clone());
        let called = catch(|| self.inner.call(connection));
        ResponseFuture::new(called, Some(catcher))
    }
}

impl<S, In, Out> Service<Request<In, Out>> for CatchPanic<S>
where
    S: Service<Request<In, Out>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    /// The inner service's, or a [`Panic`].
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        ResponseFuture::new(catch(|| self.inner.call(request)), None)
    }
}

impl<S, H, R, In, Out> Service<Request<In, Out>> for CatchPanic<S, H>
where
    S: Service<Request<In, Out>>,
    S::Response: IntoReply<Out>,
    S::Error: Into<BoxError>,
    H: Fn(Panic) -> R + Clone,
    R: IntoReply<Out>,
{
    type Response = Reply<Out>;
    /// The inner service's.
    type Error = BoxError;
    type Future = ReplyFuture<S::Future, H, Out>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        ReplyFuture {
            inner: Guarded::new(catch(|| self.inner.call(request))),
            handler: self.handler.clone(),
            out: PhantomData,
        }
    }
}

pin_project! {
    /// A future whose panics are caught. After one it is not touched again but to be dropped.
    #[project = GuardedProj]
    #[derive(Debug)]
    enum Guarded<F> {
        Runs { #[pin] future: F },
        Panicked { panic: Option<Panic> },
    }
}

impl<F: Future> Guarded<F> {
    fn new(called: Result<F, Panic>) -> Self {
        match called {
            Ok(future) => Self::Runs { future },
            Err(panic) => Self::Panicked { panic: Some(panic) },
        }
    }

    /// `caught` is called before what has panicked is dropped: that may be the connection, which looks for a reason.
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        caught: impl FnOnce(&Panic),
    ) -> Poll<Result<F::Output, Panic>> {
        let panic = match self.as_mut().project() {
            GuardedProj::Runs { future } => match catch(|| future.poll(cx)) {
                Ok(poll) => return poll.map(Ok),
                Err(panic) => panic,
            },
            GuardedProj::Panicked { panic } => match panic.take() {
                Some(panic) => panic,
                None => panic!("a future was polled after it was ready"),
            },
        };
        caught(&panic);
        contain("dropping what had panicked", || {
            self.set(Self::Panicked { panic: None });
        });
        Poll::Ready(Err(panic))
    }
}

pin_project! {
    /// The future of [`CatchPanic`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // in this order: the catcher does what a panic in the drop of the future leaves to it
        #[pin]
        inner: Guarded<F>,
        catcher: Option<Catcher>,
    }
}

impl<F: Future> ResponseFuture<F> {
    fn new(called: Result<F, Panic>, catcher: Option<Catcher>) -> Self {
        if let (Err(panic), Some(catcher)) = (&called, &catcher) {
            catcher.caught(panic.clone());
        }
        Self {
            inner: Guarded::new(called),
            catcher,
        }
    }
}

impl<F, Response, Error> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
    Error: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let catcher = this.catcher;
        let result = ready!(this.inner.poll(cx, |panic| {
            if let Some(catcher) = catcher {
                catcher.caught(panic.clone());
            }
        }));
        // runs the close callbacks, where the panic left that to us
        *catcher = None;
        Poll::Ready(match result {
            Ok(result) => result.map_err(Into::into),
            Err(panic) => Err(panic.into()),
        })
    }
}

pin_project! {
    /// The future of [`CatchPanic`] whose layer answers panics.
    #[must_use = "futures do nothing unless polled"]
    pub struct ReplyFuture<F, H, Out> {
        #[pin]
        inner: Guarded<F>,
        handler: H,
        out: PhantomData<fn() -> Out>,
    }
}

impl<F, H, R, Out, Response, Error> Future for ReplyFuture<F, H, Out>
where
    F: Future<Output = Result<Response, Error>>,
    Response: IntoReply<Out>,
    Error: Into<BoxError>,
    H: Fn(Panic) -> R,
    R: IntoReply<Out>,
{
    type Output = Result<Reply<Out>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.inner.poll(cx, |_| {})) {
            Ok(Ok(response)) => Ok(response.into_reply()),
            Ok(Err(error)) => Err(error.into()),
            // nobody knows what state the stack is in: the session is to go on with a fresh one
            Err(panic) => Ok((this.handler)(panic).into_reply().after_error()),
        })
    }
}

impl<F: fmt::Debug, H, Out> fmt::Debug for ReplyFuture<F, H, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyFuture")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests;
