//! Sources of the sessions that a [`RequestClient`](super::RequestClient) calls.

use std::{future::ready, sync::Arc};

use getty_core::{CloseReason, Session};
use getty_layers::correlate::{Delivery, RequestError};

use crate::client::Client;

/// Source of sessions for calls. It may be a single [`Session`] until it closes, a [`Client`]
/// that reconnects, or a type of the application.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of sessions that send `{Out}`",
    label = "calls need a `Session<{Out}>` or a `Client<{Out}>`"
)]
pub trait SessionSource<Out>: Clone {
    /// Returns an open session for the next call, or `None` while no session is open.
    fn pick(&self) -> Option<Session<Out>>;

    /// Returns `true` if the next call may use the session of an earlier pick without another pick.
    /// The default is `false`, because a source of several sessions spreads the calls by picking.
    #[inline]
    fn keeps(&self, session: &Session<Out>) -> bool {
        let _ = session;
        false
    }

    /// Returns the number of abandoned requests whose responses are
    /// [outstanding](getty_core::ConnectionHandle::abandoned_requests), on all sessions that may be
    /// picked. They are part of the load of a [`RequestClient`](super::RequestClient). The default
    /// is 0; then only such requests on the session of the last call count.
    fn abandoned_requests(&self) -> usize {
        0
    }

    /// Waits for the next session. The future is polled only while no session is open.
    ///
    /// # Errors
    ///
    /// Returns an error if no session will open any more.
    fn wait(
        &self,
    ) -> impl Future<Output = Result<Session<Out>, RequestError<Out>>> + Send + use<Self, Out> + 'static;
}

impl<Out: Send + 'static> SessionSource<Out> for Session<Out> {
    #[inline]
    fn pick(&self) -> Option<Self> {
        (!self.is_closing()).then(|| self.clone())
    }

    #[inline]
    fn keeps(&self, session: &Self) -> bool {
        self.id() == session.id() && !self.is_closing()
    }

    fn abandoned_requests(&self) -> usize {
        self.handle().abandoned_requests()
    }

    fn wait(
        &self,
    ) -> impl Future<Output = Result<Self, RequestError<Out>>> + Send + use<Out> + 'static {
        ready(Err(RequestError::Closed {
            message: None,
            delivery: Delivery::NotSent,
            reason: self.reason().unwrap_or(CloseReason::Dropped),
        }))
    }
}

impl<Out: Send + 'static> SessionSource<Out> for Client<Out> {
    fn pick(&self) -> Option<Session<Out>> {
        Self::pick(self)
    }

    fn abandoned_requests(&self) -> usize {
        Self::abandoned_requests(self)
    }

    fn wait(
        &self,
    ) -> impl Future<Output = Result<Session<Out>, RequestError<Out>>> + Send + use<Out> + 'static
    {
        let client = self.clone();
        async move {
            let session = client.session().await;
            session.map_err(|none| RequestError::Unavailable(Arc::new(none)))
        }
    }
}
