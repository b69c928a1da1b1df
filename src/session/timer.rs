//! The one timer of a session, made when it is first needed and set back lazily.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::clock::Clock;

/// The deadlines of the session loop's own, and the timer for these and all others. Takes one word until it is used.
///
/// Deadlines move later with every byte that moves; the timer itself is only set when it has fired too early, so that no
/// message costs a timer operation.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Since when the transport takes nothing although something waits.
    stalled: Option<Instant>,
    drain_until: Option<Instant>,
}

impl Timer {
    /// The transport took all there was.
    #[inline]
    pub(crate) fn flowed(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.stalled = None;
        }
    }

    /// The transport takes nothing more now; whether it `moved` before that.
    pub(crate) fn stalled(&mut self, moved: bool, clock: &mut Clock) {
        let inner = self.0.get_or_insert_default();
        if moved || inner.stalled.is_none() {
            inner.stalled = Some(clock.now());
        }
    }

    /// Since when the transport takes nothing although something waits.
    #[inline]
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.0.as_ref()?.stalled
    }

    /// Sets the drain deadline, unless it is set.
    pub(crate) fn drain_until(&mut self, deadline: impl FnOnce() -> Option<Instant>) {
        let inner = self.0.get_or_insert_default();
        if inner.drain_until.is_none() {
            inner.drain_until = deadline();
        }
    }

    /// The drain deadline.
    #[inline]
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.drain_until
    }

    /// Ready when `deadline` has passed; otherwise `cx` is woken then, or earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let inner = self.0.get_or_insert_default();
        let sleep = inner
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Nothing has a deadline now. The timer goes when it has fired for nothing.
    #[inline]
    pub(crate) fn idle(&mut self) {
        let sleep = self.0.as_ref().and_then(|inner| inner.sleep.as_ref());
        if sleep.is_some_and(|sleep| sleep.is_elapsed()) {
            self.0 = None;
        }
    }
}
