//! A message layer that only forwards. Its future wraps the inner future, as in a layer with a
//! function.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use getty::{Layer, Service};
use pin_project_lite::pin_project;

/// Creates [`PassThrough`] services.
#[derive(Clone, Copy, Debug)]
pub struct PassThroughLayer;

impl<S> Layer<S> for PassThroughLayer {
    type Service = PassThrough<S>;

    fn layer(&self, inner: S) -> PassThrough<S> {
        PassThrough { inner }
    }
}

/// Forwards each request to the inner service and returns its response.
#[derive(Clone, Debug)]
pub struct PassThrough<S> {
    inner: S,
}

impl<S, R> Service<R> for PassThrough<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// Response future of [`PassThrough`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}
