//! The future of a dial.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use getty_core::Connection;

use super::error::ConnectError;

/// Future of a dial, as the connectors of [`net`](crate::net) return it.
///
/// # Cancel safety
///
/// Dropping the future cancels the dial and closes its socket. A name lookup continues on a
/// thread of the runtime's blocking pool until the resolver answers.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting<Io>(BoxFuture<'static, Result<Connection<Io>, ConnectError>>);

impl<Io> Connecting<Io> {
    // Boxed because the futures of async functions have no names. It costs one allocation per
    // dial.
    pub(crate) fn new(
        dial: impl Future<Output = Result<Connection<Io>, ConnectError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(dial))
    }
}

impl<Io> Future for Connecting<Io> {
    type Output = Result<Connection<Io>, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<Io> fmt::Debug for Connecting<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}
