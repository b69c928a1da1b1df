//! The session of a request, lent rather than cloned.
//!
//! A request owns its session, for it may go to another task. Two operations on a shared reference count would cost as
//! much as all the rest of a message; and as a rule a handler has dropped its request before the next one is made, on
//! the same thread. So what a request drops is kept for the next one on this thread, which takes it over as it is if it
//! is of the same session.

use std::{any::Any, cell::Cell, sync::Arc};

use crate::session::Session;

type Erased = Arc<dyn Any + Send + Sync>;

thread_local! {
    /// What the last request on this thread gave back.
    static SPARE: Cell<Option<Erased>> = const { Cell::new(None) };
}

/// A session whose type is forgotten, so that a request needs no bounds to give it back.
#[derive(Clone)]
pub(crate) struct Lent(Option<Erased>);

#[cold]
fn put_away(spare: Erased) {
    drop(spare);
}

#[cold]
fn clone<Out: Send + 'static>(session: &Arc<Session<Out>>) -> Erased {
    Arc::clone(session) as Erased
}

impl Lent {
    /// Lends `session`.
    #[inline(always)]
    pub(crate) fn new<Out: Send + 'static>(session: &Arc<Session<Out>>) -> Self {
        // while a thread ends there is no spare
        let spare = SPARE.try_with(|spare| match spare.take() {
            Some(spare) if std::ptr::addr_eq(Arc::as_ptr(&spare), Arc::as_ptr(session)) => {
                Some(spare)
            }
            other => {
                if let Some(other) = other {
                    put_away(other);
                }
                None
            }
        });
        match spare {
            Ok(Some(spare)) => Self(Some(spare)),
            _ => Self(Some(clone(session))),
        }
    }

    #[inline]
    pub(crate) fn session<Out: 'static>(&self) -> &Session<Out> {
        match self.0.as_ref().and_then(|session| session.downcast_ref()) {
            Some(session) => session,
            None => unreachable!("a request's type says what its session sends"),
        }
    }
}

impl Drop for Lent {
    #[inline(always)]
    fn drop(&mut self) {
        let session = self.0.take();
        _ = SPARE.try_with(|spare| {
            // what was there goes, outside of the cell: the last of a session runs others' destructors
            if let Some(before) = spare.replace(session) {
                put_away(before);
            }
        });
    }
}

/// Drops what this thread keeps of `session`, which has ended.
pub(crate) fn forget<Out>(session: &Arc<Session<Out>>) {
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    if spare
        .as_ref()
        .is_some_and(|spare| !std::ptr::addr_eq(Arc::as_ptr(spare), Arc::as_ptr(session)))
    {
        drop(SPARE.try_with(|cell| cell.replace(spare)));
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::{Connection, driver};

    fn driver() -> driver::Driver<&'static str> {
        driver::pair(Connection::new(()).handle().clone()).1
    }

    #[test]
    fn one_request_after_another_leaves_the_count_alone() {
        let driver = driver();
        let before = Arc::strong_count(driver.shared_session());
        drop(driver.request(1));
        let lent = Arc::strong_count(driver.shared_session());
        assert_eq!(lent, before + 1);
        for n in 0..3 {
            assert_eq!(driver.request(n).session().id(), driver.session().id());
            assert_eq!(Arc::strong_count(driver.shared_session()), lent);
        }
    }

    #[test]
    fn requests_of_several_sessions_each_have_their_own() {
        let (one, other) = (driver(), driver());
        let first = one.request(());
        drop(other.request(()));
        let second = one.request(());
        let third = other.request(());
        drop((first, second));
        assert_eq!(one.request(()).session().id(), one.session().id());
        assert_eq!(third.session().id(), other.session().id());
    }

    #[test]
    fn nothing_is_kept_of_a_session_that_has_ended_here() {
        let driver = driver();
        drop(driver.request(()));
        let kept = Arc::downgrade(driver.shared_session());
        drop(driver);
        assert_eq!(kept.strong_count(), 0);
    }
}
