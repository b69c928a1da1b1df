//! Layer and service of `connection_fn` and `message_fn`.

use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    task::{Context, Poll},
};

use getty_core::{Closed, Connection, Request};
use tower::{BoxError, Layer, Service};

use super::Next;

/// Creates a layer for connections from a function; see the [module](super).
///
/// The function is called with each connection and with [`Next`], which runs the rest of the
/// connection's life. A function that returns without calling [`Next::run`] refuses the
/// connection: a dropped connection closes as
/// [`CloseReason::Refused`](crate::CloseReason::Refused), unless another reason was recorded
/// with [`close_with`](crate::ConnectionHandle::close_with).
///
/// The function runs in the connection's task. Everything that it awaits before [`Next::run`]
/// delays the session, and it must not wait for the peer without a deadline.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}};
/// use getty::{BoxError, CodecLayer, Pipeline, Request, ServiceBuilder, SessionLayer};
/// use getty::{codec::Lines, middleware::connection_fn};
///
/// fn app(accepted: Arc<AtomicUsize>) -> impl Pipeline<tokio::net::TcpStream> {
///     ServiceBuilder::new()
///         .layer(connection_fn(async move |connection, next| {
///             let number = accepted.fetch_add(1, Relaxed);
///             connection.handle().set_name(format!("guest-{number}"));
///             if number >= 1_000 {
///                 return Err("the table is full".into());
///             }
///             next.run(connection).await
///         }))
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()))
/// }
/// # let _ = app(Arc::default());
/// ```
pub fn connection_fn<F, Fut, S, T>(f: F) -> FromFnLayer<F, S, Connection<T>>
where
    F: FnOnce(Connection<T>, Next<S, Connection<T>>) -> Fut + Clone,
    Fut: Future<Output = Result<Closed, BoxError>>,
{
    FromFnLayer::new(f)
}

/// Creates a layer for messages from a function; see the [module](super).
///
/// The function is called with each [`Request`] and with [`Next`], which handles the message.
/// Its result is the reply: anything that implements [`IntoReply`](crate::IntoReply).
/// [`Next::run`] returns a [`Reply`](crate::Reply).
///
/// A closure that uses the message must name the type of its argument, as in
/// `|request: Request<String>, next|`.
///
/// ```
/// use std::time::Instant;
/// use getty::{BoxError, CodecLayer, Pipeline, Request, ServiceBuilder, SessionLayer};
/// use getty::{codec::Lines, middleware::message_fn};
///
/// fn app() -> impl Pipeline<tokio::net::TcpStream> {
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .layer(message_fn(async |request, next| {
///             let start = Instant::now();
///             let reply = next.run(request).await?;
///             tracing::debug!(elapsed = ?start.elapsed(), "handled");
///             Ok(reply)
///         }))
///         .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()))
/// }
/// # let _ = app();
/// ```
pub fn message_fn<F, Fut, S, In, Out, R>(f: F) -> FromFnLayer<F, S, Request<In, Out>>
where
    F: FnOnce(Request<In, Out>, Next<S, Request<In, Out>>) -> Fut + Clone,
    Fut: Future<Output = Result<R, BoxError>>,
{
    FromFnLayer::new(f)
}

/// Layer of [`connection_fn`] and [`message_fn`].
pub struct FromFnLayer<F, S, Req> {
    f: F,
    types: PhantomData<fn(S, Req)>,
}

impl<F, S, Req> FromFnLayer<F, S, Req> {
    const fn new(f: F) -> Self {
        Self {
            f,
            types: PhantomData,
        }
    }
}

impl<F: Clone, S, Req> Clone for FromFnLayer<F, S, Req> {
    fn clone(&self) -> Self {
        Self::new(self.f.clone())
    }
}

impl<F, S, Req> fmt::Debug for FromFnLayer<F, S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFnLayer")
            .field(&type_name::<F>())
            .finish()
    }
}

impl<F: Clone, S, Req> Layer<S> for FromFnLayer<F, S, Req> {
    type Service = FromFn<F, S, Req>;

    fn layer(&self, inner: S) -> Self::Service {
        FromFn {
            f: self.f.clone(),
            inner,
            request: PhantomData,
        }
    }
}

/// Service of [`connection_fn`] and [`message_fn`].
pub struct FromFn<F, S, Req> {
    f: F,
    inner: S,
    request: PhantomData<fn(Req)>,
}

impl<F: Clone, S: Clone, Req> Clone for FromFn<F, S, Req> {
    fn clone(&self) -> Self {
        Self {
            f: self.f.clone(),
            inner: self.inner.clone(),
            request: PhantomData,
        }
    }
}

impl<F, S: fmt::Debug, Req> fmt::Debug for FromFn<F, S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn")
            .field("f", &type_name::<F>())
            .field("inner", &self.inner)
            .finish()
    }
}

impl<F, Fut, S, Req, Res> Service<Req> for FromFn<F, S, Req>
where
    F: FnOnce(Req, Next<S, Req>) -> Fut + Clone,
    Fut: Future<Output = Result<Res, BoxError>>,
    S: Service<Req, Error: Into<BoxError>> + Clone,
{
    type Response = Res;
    type Error = BoxError;
    type Future = Fut;

    /// Polls the inner service. A drop will give back its reservation.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Fut {
        // The function gets the service that was polled ready, and its clone stays here.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        self.f.clone()(request, Next::new(ready))
    }
}
