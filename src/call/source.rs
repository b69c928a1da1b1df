//! Where a client's sessions come from.

use std::{future::ready, sync::Arc};

use getty_core::{CloseReason, Session};
use getty_layers::correlate::{Left, RequestError};

use crate::client::Client;

/// Gives the sessions to call on: one [`Session`], until it closes; a [`Client`], which reconnects; or something of one's
/// own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` gives no sessions that send `{Out}`",
    label = "calls need a `Session<{Out}>` or a `Client<{Out}>`"
)]
pub trait SessionSource<Out>: Clone {
    /// The session for the next call: one that is open, at once. `None` while there is none.
    fn pick(&self) -> Option<Session<Out>>;

    /// Whether the next call may go to `session`, which was picked before, without another pick. `false` unless a source
    /// knows better: one that has several spreads the calls by picking.
    #[inline]
    fn keeps(&self, session: &Session<Out>) -> bool {
        let _ = session;
        false
    }

    /// Returns the number of requests that were given up and whose answers are
    /// [outstanding](getty_core::ConnectionHandle::given_up_requests), on all sessions that may
    /// be picked. They are part of the load of the [calls](super::Calls). The default is 0, and
    /// then only such requests on the session of the last call count.
    fn given_up_requests(&self) -> usize {
        0
    }

    /// The next session, as soon as there is one. Polled only while there is none.
    ///
    /// # Errors
    ///
    /// When there will be none any more.
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

    fn given_up_requests(&self) -> usize {
        self.handle().given_up_requests()
    }

    fn wait(
        &self,
    ) -> impl Future<Output = Result<Self, RequestError<Out>>> + Send + use<Out> + 'static {
        ready(Err(RequestError::Closed {
            message: None,
            left: Left::No,
            reason: self.reason().unwrap_or(CloseReason::Dropped),
        }))
    }
}

impl<Out: Send + 'static> SessionSource<Out> for Client<Out> {
    fn pick(&self) -> Option<Session<Out>> {
        Self::pick(self)
    }

    fn given_up_requests(&self) -> usize {
        Self::given_up_requests(self)
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
