//! One decoded message with its session.

use std::fmt;

use crate::session::Session;

/// One decoded message, and the session that it came in on: the request of the message stack.
///
/// `Out` is what the session sends; it is `In` unless said otherwise.
pub struct Request<In, Out = In> {
    message: In,
    session: Session<Out>,
}

impl<In, Out> Request<In, Out> {
    /// A request for `message`, as if it had come in on `session`.
    #[inline]
    pub const fn new(message: In, session: Session<Out>) -> Self {
        Self { message, session }
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

    /// The session that the message came in on.
    pub const fn session(&self) -> &Session<Out> {
        &self.session
    }

    /// Both.
    #[inline]
    pub fn into_parts(self) -> (In, Session<Out>) {
        (self.message, self.session)
    }

    /// The same request for another message made of this one.
    pub fn map<U>(self, f: impl FnOnce(In) -> U) -> Request<U, Out> {
        Request {
            message: f(self.message),
            session: self.session,
        }
    }
}

impl<In: Clone, Out> Clone for Request<In, Out> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
            session: self.session.clone(),
        }
    }
}

impl<In: fmt::Debug, Out> fmt::Debug for Request<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("message", &self.message)
            .field("session", &self.session)
            .finish()
    }
}
