//! Future of a call.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::sync::Permit;
use getty_layers::correlate::{RequestError, Requesting};

/// Response future of a [`RequestClient`](super::RequestClient).
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<In, Out> {
    request: Requesting<In, Out>,
    _permit: Permit,
}

impl<In, Out> CallFuture<In, Out> {
    pub(super) const fn new(request: Requesting<In, Out>, permit: Permit) -> Self {
        Self {
            request,
            _permit: permit,
        }
    }
}

impl<In: Send + 'static, Out: 'static> Future for CallFuture<In, Out> {
    type Output = Result<In, RequestError<Out>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.request).poll(cx)
    }
}

impl<In, Out> fmt::Debug for CallFuture<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallFuture").field(&self.request).finish()
    }
}
