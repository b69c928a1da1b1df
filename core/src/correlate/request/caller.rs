//! Who asks: the session, or a handle that knows what its answers are.

use std::{fmt, sync::Arc};

use super::{Requesting, Shared};
use crate::session::Session;

impl<Out: 'static> Session<Out> {
    /// Sends `message` as a request and waits for the peer's answer, which is of the type that the session receives. The
    /// stack needs a `CorrelateLayer`. A handler may ask its own peer: answers are taken before
    /// readiness, and while a request waits the session loop decodes past messages that wait for their handlers, up to its
    /// read-ahead bound; beyond that the deadline ends the wait.
    ///
    /// Not from a hook of `OnOpenLayer`: while it runs nothing is received. Whoever asks often keeps
    /// a [`Caller`](super::Caller), which saves looking for the layer each time and fixes the type of the answer.
    ///
    /// # Errors
    ///
    /// See [`RequestError`](crate::correlate::RequestError). Where the message was not taken it is handed back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there was room in the queue it sends nothing. Dropped later, the message is sent all the same, and
    /// its answer is dropped and [counted](crate::Stats::late).
    pub fn request<In: Send + 'static>(&self, message: Out) -> Requesting<In, Out> {
        let shared = self.get::<Arc<Shared<In, Out>>>();
        Requesting::new(Asker::Session(self.clone(), shared), message)
    }
}

/// Asks the peer of one session: a [`Session`] of which it is known that its stack has a
/// `CorrelateLayer` for answers of type `In`. Clonable, usable from any task. Scope: session.
pub struct Caller<In, Out = In>(Arc<Asking<In, Out>>);

/// Behind one count, which each request takes part in.
pub(crate) struct Asking<In, Out> {
    session: Session<Out>,
    shared: Arc<Shared<In, Out>>,
}

/// Whose request it is.
pub(crate) enum Asker<In, Out> {
    Caller(Arc<Asking<In, Out>>),
    Session(Session<Out>, Option<Arc<Shared<In, Out>>>),
}

impl<In, Out> Asker<In, Out> {
    #[inline]
    pub(crate) fn session(&self) -> &Session<Out> {
        match self {
            Self::Caller(asking) => &asking.session,
            Self::Session(session, _) => session,
        }
    }

    #[inline]
    pub(crate) fn shared(&self) -> Option<&Arc<Shared<In, Out>>> {
        match self {
            Self::Caller(asking) => Some(&asking.shared),
            Self::Session(_, shared) => shared.as_ref(),
        }
    }
}

impl<In: Send + 'static, Out: 'static> Caller<In, Out> {
    /// The caller of `session`; `None` where its stack has no `CorrelateLayer` for answers of this
    /// type, or the session is closed.
    #[must_use]
    pub fn of(session: &Session<Out>) -> Option<Self> {
        Some(Self(Arc::new(Asking {
            session: session.clone(),
            shared: session.get()?,
        })))
    }

    /// As [`Session::request`].
    ///
    /// # Errors
    ///
    /// See [`RequestError`](crate::correlate::RequestError).
    ///
    /// # Cancel safety
    ///
    /// As that of [`Session::request`].
    pub fn request(&self, message: Out) -> Requesting<In, Out> {
        Requesting::new(Asker::Caller(Arc::clone(&self.0)), message)
    }
}

impl<In, Out> Caller<In, Out> {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session<Out> {
        &self.0.session
    }

    /// Returns the number of requests in flight. Where answers come in order, requests that were
    /// given up are counted until their answers have come.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.shared.table.in_flight()
    }

    /// Whether answers come in the order of their requests, instead of with ids.
    #[must_use]
    pub fn is_ordered(&self) -> bool
    where
        In: 'static,
        Out: 'static,
    {
        self.0.shared.matching.is_ordered()
    }

    /// Whether there may be answers yet: the session is not closing, and the peer has not ended its direction.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.0.session.is_closing() && !self.0.shared.table.is_over()
    }
}

impl<In, Out> Clone for Caller<In, Out> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<In, Out> fmt::Debug for Caller<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(self.session()).finish()
    }
}
