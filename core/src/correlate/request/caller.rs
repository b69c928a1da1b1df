//! Requesters: the session, and a handle with a fixed type of responses.

use std::{fmt, sync::Arc};

use super::{Correlator, Requesting};
use crate::session::Session;

impl<Out: 'static> Session<Out> {
    /// Sends `message` as a request and waits for the peer's response.
    ///
    /// `In` is the type of the response, which is the type that the session receives. The stack
    /// needs a `CorrelateLayer`. A handler may send requests to its own peer: responses are taken
    /// before readiness is polled. While a request waits, the session loop decodes past messages
    /// that wait for their handlers, up to its read-ahead limit (design.md: Why does the session
    /// loop decode ahead while a request waits?). Beyond the limit, the deadline ends the wait.
    ///
    /// A hook of `OnOpenLayer` must not wait for a response because nothing is received while the
    /// hook runs. A task that sends many requests should keep a [`Caller`](super::Caller), which
    /// looks up the layer once and fixes the type of the response.
    ///
    /// # Errors
    ///
    /// See [`RequestError`](crate::correlate::RequestError). A message that was not accepted is
    /// returned.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before there was room in the queue, nothing is sent. If it is
    /// dropped later, the message is still sent, and its response is dropped and
    /// [counted](crate::Stats::late).
    pub fn request<In: Send + 'static>(&self, message: Out) -> Requesting<In, Out> {
        let shared = self.get::<Arc<Correlator<In, Out>>>();
        Requesting::new(Requester::Session(self.clone(), shared), message)
    }
}

/// Sends requests to the peer of one session whose stack has a `CorrelateLayer` for responses
/// of type `In`.
///
/// It can be cloned and used from any task. Scope: session.
pub struct Caller<In, Out = In>(Arc<RequestCx<In, Out>>);

/// Session and correlator behind one reference count, which each request shares.
pub(crate) struct RequestCx<In, Out> {
    session: Session<Out>,
    shared: Arc<Correlator<In, Out>>,
}

/// Origin of a request: a caller, or a session.
pub(crate) enum Requester<In, Out> {
    Caller(Arc<RequestCx<In, Out>>),
    Session(Session<Out>, Option<Arc<Correlator<In, Out>>>),
}

impl<In, Out> Requester<In, Out> {
    #[inline]
    pub(crate) fn session(&self) -> &Session<Out> {
        match self {
            Self::Caller(cx) => &cx.session,
            Self::Session(session, _) => session,
        }
    }

    #[inline]
    pub(crate) fn shared(&self) -> Option<&Arc<Correlator<In, Out>>> {
        match self {
            Self::Caller(cx) => Some(&cx.shared),
            Self::Session(_, shared) => shared.as_ref(),
        }
    }
}

impl<In: Send + 'static, Out: 'static> Caller<In, Out> {
    /// Creates the caller of `session`. Returns `None` if its stack has no `CorrelateLayer` for
    /// responses of this type, or if the session is closed.
    #[must_use]
    pub fn of(session: &Session<Out>) -> Option<Self> {
        Some(Self(Arc::new(RequestCx {
            session: session.clone(),
            shared: session.get()?,
        })))
    }

    /// Sends `message` as a request, like [`Session::request`].
    ///
    /// # Errors
    ///
    /// See [`RequestError`](crate::correlate::RequestError).
    ///
    /// # Cancel safety
    ///
    /// As for [`Session::request`].
    pub fn request(&self, message: Out) -> Requesting<In, Out> {
        Requesting::new(Requester::Caller(Arc::clone(&self.0)), message)
    }
}

impl<In, Out> Caller<In, Out> {
    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session<Out> {
        &self.0.session
    }

    /// Returns the number of requests in flight. Where responses come in order, abandoned requests
    /// are counted until their responses have arrived.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.shared.table.in_flight()
    }

    /// Returns `true` if responses come in the order of their requests, and `false` if they
    /// contain ids.
    #[must_use]
    pub fn is_ordered(&self) -> bool
    where
        In: 'static,
        Out: 'static,
    {
        self.0.shared.matching.is_ordered()
    }

    /// Returns `true` if responses may still arrive: the session is not closing and the peer has
    /// not ended its direction.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.0.session.is_closing() && !self.0.shared.table.has_input_ended()
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
