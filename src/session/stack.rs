//! Message stacks of sessions: cloned from a shared stack, or made for each session.

use std::task::Context;

use getty_core::{IntoReply, Request};
use tower::{BoxError, Service};

use super::framed_transport::FramedTransport;

pub(super) mod sealed {
    /// Prevents implementations in other crates.
    pub trait Sealed {}
}

/// The message stack of a session over `W`: an alias for the bounds that the session loop
/// needs.
///
/// Every service is one that takes `W`'s requests, and whose response converts into a reply of
/// `W`.
pub trait MessageStack<W: FramedTransport>:
    Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>
{
}

#[diagnostic::do_not_recommend]
impl<S, W> MessageStack<W> for S
where
    W: FramedTransport,
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
{
}

/// A message stack that [`SessionLayer::new`](crate::SessionLayer::new) clones for each
/// session.
#[diagnostic::on_unimplemented(
    message = "`SessionLayer::new` clones the message stack for each session, but `{Self}` is not `Clone`",
    label = "not `Clone`",
    note = "`SessionLayer::per_session()` makes a stack for each session; tower's `buffer` around this one shares it"
)]
pub trait SharedStack: Sized {
    /// Returns a clone for one session.
    #[must_use]
    fn for_session(&self) -> Self;
}

#[diagnostic::do_not_recommend]
impl<S: Clone> SharedStack for S {
    fn for_session(&self) -> Self {
        self.clone()
    }
}

/// The source of a session's message stack. This trait is sealed.
///
/// The session loop replaces its stack after an error and before it waits for a message. A
/// stack that has failed or that was called may hold a permit of a shared limit (design.md: Why
/// does the loop replace its clone of the stack?).
pub trait StackSource<S>: sealed::Sealed {
    /// Returns a stack that was never polled, or `None` if the source makes only one stack.
    fn fresh(&self) -> Option<S>;

    /// Polls the make-service of a session that is not open yet. Puts the result into `service` or
    /// closes the session. Returns `true` while the stack is being made. Returns `false` if there
    /// was a stack from the beginning.
    #[inline]
    fn poll_make(&mut self, _service: &mut Option<S>, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Drops the make-service and its future, because the session closes.
    #[inline]
    fn stop_making(&mut self) {}
}

/// A clone of a shared stack that is never polled. The session's stacks are cloned from it.
#[derive(Clone, Debug)]
pub struct ClonedStack<S>(S);

impl<S> ClonedStack<S> {
    pub(super) const fn new(stack: S) -> Self {
        Self(stack)
    }
}

impl<S> sealed::Sealed for ClonedStack<S> {}

impl<S: SharedStack> StackSource<S> for ClonedStack<S> {
    fn fresh(&self) -> Option<S> {
        Some(self.0.for_session())
    }
}
