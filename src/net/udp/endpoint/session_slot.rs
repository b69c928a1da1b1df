//! The state of an endpoint's only session, between the session and the task that opens the
//! next.
//!
//! The module depends on nothing but atomics and a waker so that its protocol can be
//! model-checked.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Admits one session at a time.
#[derive(Default)]
pub(super) struct SessionSlot {
    is_taken: AtomicBool,
    /// The current or last session has read from the socket.
    has_read: AtomicBool,
    /// Task that waits until the slot is free.
    acceptor: AtomicWaker,
}

impl SessionSlot {
    /// Takes the slot for a new session.
    pub(super) fn take(&self) {
        self.is_taken.store(true, SeqCst);
        self.has_read.store(false, SeqCst);
    }

    /// Frees the slot and wakes the accepting task.
    pub(super) fn free(&self) {
        self.is_taken.store(false, SeqCst);
        self.acceptor.wake();
    }

    /// Waits until the slot is free.
    pub(super) fn poll_free(&self, cx: &Context<'_>) -> Poll<()> {
        // registered before the check so that a `free` in between wakes the task
        self.acceptor.register(cx.waker());
        if self.is_taken.load(SeqCst) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Records that the session, or the endpoint after it, has read from the socket.
    pub(super) fn set_read(&self) {
        self.has_read.store(true, SeqCst);
    }

    /// Returns `true` if the last session, or the endpoint after it, has read from the socket.
    pub(super) fn has_read(&self) -> bool {
        self.has_read.load(SeqCst)
    }
}
