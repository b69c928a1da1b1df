//! The session of a request, cached per thread.
//!
//! A request owns its session because it may be sent to another task. Two operations on a
//! shared reference count would cost as much as the rest of a message. Usually a handler has
//! dropped its request before the next one is created, on the same thread. The dropped
//! reference is therefore cached and the next request on this thread takes it over if it is
//! for the same session (design.md: Why does a request not clone its session?).

use std::{any::Any, cell::Cell, sync::Arc};

use crate::session::Session;

type Erased = Arc<dyn Any + Send + Sync>;

thread_local! {
    /// The reference that the last request on this thread dropped.
    static SESSION_CACHE: Cell<Option<Erased>> = const { Cell::new(None) };
}

/// A type-erased session, so that a request needs no bounds to cache it.
#[derive(Clone)]
pub(crate) struct SessionRef(Option<Erased>);

#[cold]
fn drop_cached(spare: Erased) {
    drop(spare);
}

#[cold]
fn clone<Out: Send + 'static>(session: &Arc<Session<Out>>) -> Erased {
    Arc::clone(session) as Erased
}

impl SessionRef {
    /// Creates a reference to `session`.
    #[inline(always)]
    pub(crate) fn new<Out: Send + 'static>(session: &Arc<Session<Out>>) -> Self {
        // while a thread ends there is no cache
        let spare = SESSION_CACHE.try_with(|spare| match spare.take() {
            Some(spare) if std::ptr::addr_eq(Arc::as_ptr(&spare), Arc::as_ptr(session)) => {
                Some(spare)
            }
            other => {
                if let Some(other) = other {
                    drop_cached(other);
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
            None => unreachable!("the type of a request determines the type of its session"),
        }
    }
}

impl Drop for SessionRef {
    #[inline(always)]
    fn drop(&mut self) {
        let session = self.0.take();
        _ = SESSION_CACHE.try_with(|spare| {
            // dropped outside the cell: the last reference to a session runs other destructors
            if let Some(before) = spare.replace(session) {
                drop_cached(before);
            }
        });
    }
}

/// Drops this thread's cached reference to `session`, which has ended.
pub(crate) fn forget<Out>(session: &Arc<Session<Out>>) {
    let spare = SESSION_CACHE.try_with(Cell::take).ok().flatten();
    if spare
        .as_ref()
        .is_some_and(|spare| !std::ptr::addr_eq(Arc::as_ptr(spare), Arc::as_ptr(session)))
    {
        drop(SESSION_CACHE.try_with(|cell| cell.replace(spare)));
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
    fn consecutive_requests_leave_the_reference_count_unchanged() {
        let driver = driver();
        let before = Arc::strong_count(driver.shared_session());
        drop(driver.request(1));
        let after = Arc::strong_count(driver.shared_session());
        assert_eq!(after, before + 1);
        for n in 0..3 {
            assert_eq!(driver.request(n).session().id(), driver.session().id());
            assert_eq!(Arc::strong_count(driver.shared_session()), after);
        }
    }

    #[test]
    fn requests_of_several_sessions_refer_to_their_sessions() {
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
    fn reference_to_an_ended_session_is_not_cached() {
        let driver = driver();
        drop(driver.request(()));
        let kept = Arc::downgrade(driver.shared_session());
        drop(driver);
        assert_eq!(kept.strong_count(), 0);
    }
}
