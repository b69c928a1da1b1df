//! One decoded message with its session.

use std::{fmt, marker::PhantomData, sync::Arc};

use crate::session::Session;
use crate::session::lent::Lent;

/// One decoded message, and the session that it came in on: the request of the message stack.
///
/// `Out` is what the session sends; it is `In` unless said otherwise.
pub struct Request<In, Out = In> {
    message: In,
    session: Lent,
    out: PhantomData<fn() -> Out>,
}

impl<In, Out> Request<In, Out> {
    #[inline]
    pub(crate) fn lent(message: In, session: &Arc<Session<Out>>) -> Self
    where
        Out: Send + 'static,
    {
        Self {
            message,
            session: Lent::new(session),
            out: PhantomData,
        }
    }

    /// A request for `message`, as if it had come in on `session`.
    pub fn new(message: In, session: Session<Out>) -> Self
    where
        Out: Send + 'static,
    {
        Self::lent(message, &Arc::new(session))
    }

    /// The message.
    pub const fn message(&self) -> &In {
        &self.message
    }

    /// The message.
    pub const fn message_mut(&mut self) -> &mut In {
        &mut self.message
    }

    /// The message, by value.
    #[inline]
    pub fn into_message(self) -> In {
        self.message
    }

    /// The session that the message came in on. Layers that are generic over `Out` and ask for it bound
    /// `Out: 'static`; those that only pass requests on need no bound.
    #[inline]
    pub fn session(&self) -> &Session<Out>
    where
        Out: 'static,
    {
        self.session.session()
    }

    /// Both.
    pub fn into_parts(self) -> (In, Session<Out>)
    where
        Out: 'static,
    {
        let session = self.session().clone();
        (self.message, session)
    }

    /// The same request for another message made of this one.
    pub fn map<U>(self, f: impl FnOnce(In) -> U) -> Request<U, Out> {
        Request {
            message: f(self.message),
            session: self.session,
            out: PhantomData,
        }
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
