//! Converts panics into errors or replies.
//!
//! Around connections it handles panics of the layers inside it such as handshakes. Panics of a
//! session are caught by the session loop even without this layer.
//!
//! - *ready*: as the inner service. Around connections, a panic in it becomes a readiness
//!   error, which ends the accept loop in an orderly way. Around messages it passes through to
//!   the session loop.
//! - *call*: a panic in the call or in its future becomes an error, a [`Panic`] with the panic
//!   message. The connection closes as
//!   [`CloseReason::Panicked`](getty_core::CloseReason::Panicked) with the same source even if
//!   the unwinding drops the connection.
//! - *drop*: drops the inner future.
//! - *close*: nothing.
//!
//! Around messages the error is the handler's error. It closes the session as `Panicked`,
//! unless a layer outside replies to it: a [`HandleErrorLayer`](crate::HandleErrorLayer), which
//! gets the `Panic` like other errors, or [`CatchPanicLayer::with_reply`], which replies to
//! panics only.
//!
//! Scope: connection, or message. Around connections, place it outside layers that may panic
//! before the session is open, and inside layers that should get the error. Around messages it
//! is useful inside layers that move calls to other tasks, and for replies to panics. Place it
//! outside everything that may panic.
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

use getty_core::{
    Connection, IntoReply, Panic, Reply, Request,
    internal::{PanicGuard, catch, catch_and_log},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Converts panics into errors or replies; see the [module](self).
#[derive(Clone)]
pub struct CatchPanicLayer<H = ()> {
    handler: H,
}

impl CatchPanicLayer {
    /// Creates a new layer that converts a panic into an error, which is a [`Panic`]. For
    /// connections and messages.
    #[must_use]
    pub const fn new() -> Self {
        Self { handler: () }
    }

    /// Sets a function that converts a panic into a reply. For messages only. The default is to
    /// convert it into an error.
    ///
    /// The function may return a message, an `Option` or `Vec` of messages, or a [`Reply`] that
    /// also closes. Afterwards the session continues with a fresh clone of the message stack.
    ///
    /// ```
    /// use getty_core::Reply;
    /// use getty_layers::CatchPanicLayer;
    ///
    /// let layer = CatchPanicLayer::new()
    ///     .with_reply(|panic| Reply::one(format!("ERR internal: {panic}")).and_close());
    /// ```
    // This bound on the closure makes its argument type inferable.
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

/// Service of [`CatchPanicLayer`].
#[derive(Clone)]
pub struct CatchPanic<S, H = ()> {
    inner: S,
    handler: H,
}

impl<S> CatchPanic<S> {
    /// Creates a new service around `inner`; see [`CatchPanicLayer::new`].
    pub const fn new(inner: S) -> Self {
        Self { inner, handler: () }
    }
}

impl<S, H> CatchPanic<S, H> {
    getty_core::inner_service_accessors!();
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
    /// Error of the inner service, or a [`Panic`].
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match catch(|| self.inner.poll_ready(cx)) {
            Ok(ready) => ready.map_err(Into::into),
            Err(panic) => Poll::Ready(Err(panic.into())),
        }
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let guard = PanicGuard::new(connection.handle().clone());
        let called = catch(|| self.inner.call(connection));
        ResponseFuture::new(called, Some(guard))
    }
}

impl<S, In, Out> Service<Request<In, Out>> for CatchPanic<S>
where
    S: Service<Request<In, Out>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    /// Error of the inner service, or a [`Panic`].
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
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
    /// Error of the inner service.
    type Error = BoxError;
    type Future = ReplyFuture<S::Future, H, Out>;

    /// Polls the inner service. A drop will give back its reservation.
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
    /// Future whose panics are caught. After a panic it is only dropped, never polled.
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

    /// Polls the future. After a panic, `caught` is called before the future is dropped. The drop
    /// may drop the connection, whose close uses the reason that `caught` has recorded.
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        on_panic: impl FnOnce(&Panic),
    ) -> Poll<Result<F::Output, Panic>> {
        let panic = match self.as_mut().project() {
            GuardedProj::Runs { future } => match catch(|| future.poll(cx)) {
                Ok(poll) => return poll.map(Ok),
                Err(panic) => panic,
            },
            GuardedProj::Panicked { panic } => match panic.take() {
                Some(panic) => panic,
                None => panic!("a future was polled after completion"),
            },
        };
        on_panic(&panic);
        catch_and_log("dropping a future that had panicked", || {
            self.set(Self::Panicked { panic: None });
        });
        Poll::Ready(Err(panic))
    }
}

pin_project! {
    /// Future of [`CatchPanic`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // Declared in this order: if the drop of `inner` panics, the drop of `guard` then closes
        // the connection (design.md: Why are fields declared in a particular order?).
        #[pin]
        inner: Guarded<F>,
        guard: Option<PanicGuard>,
    }
}

impl<F: Future> ResponseFuture<F> {
    fn new(called: Result<F, Panic>, guard: Option<PanicGuard>) -> Self {
        if let (Err(panic), Some(guard)) = (&called, &guard) {
            guard.caught(panic.clone());
        }
        Self {
            inner: Guarded::new(called),
            guard,
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
        let guard = this.guard;
        let result = ready!(this.inner.poll(cx, |panic| {
            if let Some(guard) = guard {
                guard.caught(panic.clone());
            }
        }));
        // Runs the close callbacks, if the panic has skipped them.
        *guard = None;
        Poll::Ready(match result {
            Ok(result) => result.map_err(Into::into),
            Err(panic) => Err(panic.into()),
        })
    }
}

pin_project! {
    /// Future of [`CatchPanic`] with [`CatchPanicLayer::with_reply`].
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
            // The state of the stack is unknown after a panic, so the session must continue with a
            // fresh one.
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
