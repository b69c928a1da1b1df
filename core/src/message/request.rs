//! Requests of the message stack.

use std::{fmt, marker::PhantomData, sync::Arc};

use crate::session::{Session, driver::Driver, session_ref::SessionRef};

/// One decoded message with its session: the request of the message stack.
///
/// `Out` is the type of the messages that the session sends. The default is `In`.
// (design.md: Why are there two kinds of request?)
pub struct Request<In, Out = In> {
    message: In,
    session: SessionRef,
    out: PhantomData<fn() -> Out>,
}

impl<In, Out> Request<In, Out> {
    #[inline]
    pub(crate) fn from_ref(message: In, session: &Arc<Session<Out>>) -> Self
    where
        Out: Send + 'static,
    {
        Self {
            message,
            session: SessionRef::new(session),
            out: PhantomData,
        }
    }

    /// Creates a new request for `message`, as if `session` had received it.
    pub fn new(message: In, session: Session<Out>) -> Self
    where
        Out: Send + 'static,
    {
        Self::from_ref(message, &Arc::new(session))
    }

    /// Returns a reference to the message.
    pub const fn message(&self) -> &In {
        &self.message
    }

    /// Returns a mutable reference to the message.
    pub const fn message_mut(&mut self) -> &mut In {
        &mut self.message
    }

    /// Returns the message by value.
    #[inline]
    pub fn into_message(self) -> In {
        self.message
    }

    /// Returns the session that received the message.
    ///
    /// A layer that is generic over `Out` and calls this method needs the bound `Out: 'static`. A
    /// layer that only passes requests on needs no bound.
    #[inline]
    pub fn session(&self) -> &Session<Out>
    where
        Out: 'static,
    {
        self.session.session()
    }

    /// Splits the request into its message and its session.
    pub fn into_parts(self) -> (In, Session<Out>)
    where
        Out: 'static,
    {
        let session = self.session().clone();
        (self.message, session)
    }

    /// Splits the request into its message and a request without a message.
    ///
    /// Unlike [`into_parts`](Self::into_parts) it does not clone the session.
    #[inline]
    pub fn take(self) -> (In, Request<(), Out>) {
        let rest = Request {
            message: (),
            session: self.session,
            out: PhantomData,
        };
        (self.message, rest)
    }

    /// Replaces the message by the result of `f`.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(In) -> U) -> Request<U, Out> {
        Request {
            message: f(self.message),
            session: self.session,
            out: PhantomData,
        }
    }
}

impl<In, E, Out> Request<Result<In, E>, Out> {
    /// Converts a request whose message is a `Result` into a `Result` of a request, like
    /// [`Result::transpose`] for an `Option`.
    ///
    /// # Errors
    ///
    /// Returns the message's error. The session is dropped.
    #[inline]
    pub fn transpose(self) -> Result<Request<In, Out>, E> {
        match self.message {
            Ok(message) => Ok(Request {
                message,
                session: self.session,
                out: PhantomData,
            }),
            Err(error) => Err(error),
        }
    }
}

impl<Out> Driver<Out> {
    /// Creates a new request for `message`, like [`Request::new`].
    ///
    /// It does not touch a reference count if the session's last request was dropped on this
    /// thread (design.md: Why does a request not clone its session?).
    #[inline]
    pub fn request<In>(&self, message: In) -> Request<In, Out>
    where
        Out: Send + 'static,
    {
        Request::from_ref(message, self.shared_session())
    }
}

impl<In: Clone, Out> Clone for Request<In, Out> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
            session: self.session.clone(),
            out: PhantomData,
        }
    }
}

impl<In: fmt::Debug, Out> fmt::Debug for Request<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
