//! The one timer of a session, made when it is first needed and set back lazily.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

use super::clock::Clock;

/// Time without progress after which the allowance is increased.
const ALLOWANCE_AFTER: Duration = Duration::from_millis(100);
/// First value of the allowance, in bytes.
const MIN_ALLOWANCE: usize = 64 * 1024;
/// Maximum number of increases: to 4 MiB, more than the kernel's buffers of a connection shrink by.
const MAX_INCREASES: u8 = 7;

/// The deadlines of the session loop's own, and the timer for these and all others. Takes one word until it is used.
///
/// Deadlines move later with every byte that moves; the timer itself is only set when it has fired too early, so that no
/// message costs a timer operation.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom the sleep wakes. While that is right there is no need to poll it, which costs more than all else that a
    /// turn without a deadline does here.
    waker: Option<Waker>,
    /// Since when the transport takes nothing although something waits.
    stalled: Option<Instant>,
    /// How far it was then with what it took.
    written: u64,
    /// Number of increases of the [allowance](Timer::allowance) since the transport last took all
    /// that waits.
    increases: u8,
    drain_until: Option<Instant>,
    /// Until when what is to be written is held back.
    held_until: Option<Instant>,
}

impl Timer {
    /// Whether nothing here has a deadline, and none had one for long.
    #[inline]
    pub(crate) const fn is_unused(&self) -> bool {
        self.0.is_none()
    }

    /// Holds what is to be written back, for so long from the first time on that this is asked; whether it still does.
    pub(crate) fn holds_back(&mut self, delay: Duration, now: Instant) -> bool {
        let inner = self.0.get_or_insert_default();
        let until = *inner
            .held_until
            .get_or_insert(now.checked_add(delay).unwrap_or(now));
        now < until
    }

    /// Nothing is held back any more.
    #[inline]
    pub(crate) fn let_go(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.held_until = None;
        }
    }

    /// Until when what is to be written is held back.
    #[inline]
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.0.as_ref()?.held_until
    }

    /// The transport took all there was.
    #[inline]
    pub(crate) fn flowed(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.stalled = None;
            inner.increases = 0;
        }
    }

    /// Returns the reply bytes that are allowed beyond the reply limit, until the transport takes
    /// all that waits.
    pub(crate) fn allowance(&self) -> usize {
        let increases = self.0.as_ref().map_or(0, |inner| inner.increases);
        increases
            .checked_sub(1)
            .map_or(0, |doublings| MIN_ALLOWANCE << doublings)
    }

    /// Returns the time at which the allowance is increased, where the transport has taken nothing
    /// since `stalled`. `None` once it has reached its maximum.
    pub(crate) fn next_allowance(&self, stalled: Instant) -> Option<Instant> {
        let inner = self.0.as_ref()?;
        if inner.increases >= MAX_INCREASES {
            return None;
        }
        stalled.checked_add(ALLOWANCE_AFTER * (u32::from(inner.increases) + 1))
    }

    /// Doubles the allowance.
    pub(crate) fn increase_allowance(&mut self) {
        self.0.get_or_insert_default().increases += 1;
    }

    /// The transport takes nothing more now; whether it `moved` before that, and how far it is with what it took.
    pub(crate) fn stalled(&mut self, moved: bool, written: u64, clock: &mut Clock) {
        let inner = self.0.get_or_insert_default();
        if moved || inner.stalled.is_none() || inner.written != written {
            inner.stalled = Some(clock.now());
            inner.written = written;
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

    /// Moves the drain deadline to `deadline`.
    pub(crate) fn move_drain_deadline(&mut self, deadline: Option<Instant>) {
        self.0.get_or_insert_default().drain_until = deadline;
    }

    /// The drain deadline.
    #[inline]
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.drain_until
    }

    /// Ready when `deadline` has passed; otherwise `cx` is woken then, or earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let Inner { sleep, waker, .. } = &mut **self.0.get_or_insert_default();
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
            && !sleep.is_elapsed()
        {
            return Poll::Pending;
        }
        // outside the cooperative budget: without any left a sleep does not note whom to wake
        while Pin::new(&mut unconstrained(sleep.as_mut()))
            .poll(cx)
            .is_ready()
        {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{task::coop, time::advance};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    /// A task that polls a timer, in that it can be woken.
    fn sleeper() -> task::Spawn<()> {
        task::spawn(())
    }

    fn poll(sleeper: &mut task::Spawn<()>, timer: &mut Timer, deadline: Instant) -> Poll<()> {
        sleeper.enter(|cx, _| timer.poll(cx, deadline))
    }

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn it_wakes_whoever_polled_it_last() {
        let (mut timer, deadline) = (Timer::default(), Instant::now() + TEN);
        let (mut first, mut second) = (sleeper(), sleeper());
        assert_pending!(poll(&mut first, &mut timer, deadline));
        assert_pending!(poll(&mut first, &mut timer, deadline));
        assert_pending!(poll(&mut second, &mut timer, deadline));
        advance(TEN).await;
        assert!(second.is_woken() && !first.is_woken());
        assert_ready!(poll(&mut second, &mut timer, deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_is_kept_and_a_later_one_only_looked_at_when_it_has_fired() {
        let (mut timer, now) = (Timer::default(), Instant::now());
        let mut sleeper = sleeper();
        assert_pending!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        advance(TEN).await;
        assert!(sleeper.is_woken(), "set for the earliest");
        assert_pending!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        assert!(!sleeper.is_woken());
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        // and again, for as long as it is asked for
        assert_ready!(poll(&mut sleeper, &mut timer, now + TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_without_budget_is_woken_in_time_as_well() {
        let (mut timer, deadline) = (Timer::default(), Instant::now() + TEN);
        let mut sleeper = sleeper();
        poll_fn(|cx| {
            while let Poll::Ready(unit) = coop::poll_proceed(cx) {
                unit.made_progress();
            }
            assert_pending!(poll(&mut sleeper, &mut timer, deadline));
            assert_pending!(poll(&mut sleeper, &mut timer, deadline));
            Poll::Ready(())
        })
        .await;
        assert!(!sleeper.is_woken(), "it was for the time that it waited");
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, deadline));
    }
}
