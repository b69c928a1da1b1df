//! Where a session's message stack comes from, and a fresh one after an error.

use std::task::Context;

/// A message stack that sessions share: each has its clone.
#[diagnostic::on_unimplemented(
    message = "`SessionLayer::new` clones the message stack for each session, but `{Self}` is not `Clone`",
    label = "not `Clone`",
    note = "`SessionLayer::per_session()` makes a stack for each session; tower's `buffer` around this one shares it"
)]
pub trait SharedStack: Sized {
    /// The clone of one session.
    #[must_use]
    fn for_session(&self) -> Self;
}

#[diagnostic::do_not_recommend]
impl<S: Clone> SharedStack for S {
    fn for_session(&self) -> Self {
        self.clone()
    }
}

/// Gives a fresh message stack to a session that survives an error of its own: a clone that has failed may still wait in
/// the queue of a shared limit, where it would starve others.
pub trait Renew<S> {
    /// A fresh stack, where there is one to be had.
    fn fresh(&self) -> Option<S>;

    /// Polls the make-service of a session that is not open yet. Puts the result into `service`, or
    /// closes the session. Returns `true` while the stack is being made, and `false` if there was a
    /// stack from the beginning.
    #[inline]
    fn poll_make(&mut self, _service: &mut Option<S>, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Drops the make-service and its future, because the session closes.
    #[inline]
    fn stop_making(&mut self) {}
}

/// A clone that is never polled, to clone from.
#[derive(Clone, Debug)]
pub struct Pristine<S>(pub(super) S);

impl<S: SharedStack> Renew<S> for Pristine<S> {
    fn fresh(&self) -> Option<S> {
        Some(self.0.for_session())
    }
}
