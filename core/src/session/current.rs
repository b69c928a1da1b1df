//! The session that the current thread polls, to recognise messages from its handlers.

use std::cell::Cell;

thread_local! {
    /// Id of the session whose driver is polled on this thread, or 0 for none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Marks a session as the one that this thread polls until the guard is dropped. Created by
/// [`Driver::enter`](super::driver::Driver::enter).
#[derive(Debug)]
#[must_use = "dropped, the session is no longer the current one"]
pub struct CurrentSession {
    /// Id of the outer session because a session may be polled within the poll of another.
    previous: u64,
}

impl CurrentSession {
    #[inline]
    pub(super) fn set(id: u64) -> Self {
        // while a thread ends there is no cell, and no session is recognised
        let previous = CURRENT.try_with(|current| current.replace(id));
        Self {
            previous: previous.unwrap_or(0),
        }
    }
}

impl Drop for CurrentSession {
    #[inline]
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.set(self.previous));
    }
}

/// Returns `true` if this thread is polling the session with this id.
#[inline]
pub(crate) fn is_current(id: u64) -> bool {
    CURRENT
        .try_with(|current| current.get() == id)
        .unwrap_or(false)
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    #[test]
    fn inner_session_is_current_and_the_outer_one_is_restored() {
        assert!(!is_current(1));
        let outer = CurrentSession::set(1);
        let inner = CurrentSession::set(2);
        assert!(is_current(2) && !is_current(1));
        drop(inner);
        assert!(is_current(1));
        drop(outer);
        assert!(!is_current(1));
    }
}
