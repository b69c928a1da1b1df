//! The one timer of a session, created when it is first needed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use getty_core::sync::Lazy;
use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

use super::clock::Clock;

/// Delay from which a deadline counts as late, because its thread was blocked or its process was
/// stopped. It exceeds the resolution of tokio's timers.
const LATE: Duration = Duration::from_millis(5);

/// Deadlines of the session loop, and the timer for these and for those of layers.
///
/// Deadlines move with every byte. The timer is set again only when it has fired too early, so
/// that no message costs a timer operation (design.md: Why is the timer not reset with every
/// byte?).
#[derive(Debug, Default)]
pub(crate) struct Timer(Lazy<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Waker registered with `sleep`. While it is current, `sleep` is not polled: polling is the
    /// most expensive step of an idle poll.
    waker: Option<Waker>,
    /// Time since which the transport has taken nothing although bytes wait.
    stalled: Option<Instant>,
    /// The transport's count of flushed bytes at `stalled`.
    written: u64,
    drain_until: Option<Instant>,
    /// End of the flush delay. Set while gathered bytes are delayed.
    held_until: Option<Instant>,
}

impl Timer {
    /// Returns `true` if the loop has no deadline, and the timer does not run.
    #[inline]
    pub(crate) const fn is_unused(&self) -> bool {
        !self.0.is_some()
    }

    /// Delays the next flush by `delay`, counted from the first call. Returns `true` until the
    /// delay has passed.
    pub(crate) fn delay_flush(&mut self, delay: Duration, now: Instant) -> bool {
        let until = *self
            .0
            .get_or_default()
            .held_until
            .get_or_insert(now.checked_add(delay).unwrap_or(now));
        now < until
    }

    /// Ends the flush delay.
    #[inline]
    pub(crate) fn end_flush_delay(&mut self) {
        if let Some(inner) = self.0.get_mut() {
            inner.held_until = None;
        }
    }

    /// Returns the end of the flush delay, if the flush is delayed.
    #[inline]
    pub(crate) fn flush_delayed_until(&self) -> Option<Instant> {
        self.0.get()?.held_until
    }

    /// Records that the transport has taken all bytes that waited.
    #[inline]
    pub(crate) fn record_flushed(&mut self) {
        if let Some(inner) = self.0.get_mut() {
            inner.stalled = None;
        }
    }

    /// Records that the transport takes no more bytes now. `moved` is `true` if it took some
    /// before, and `written` is its count of flushed bytes.
    pub(crate) fn record_stalled(&mut self, moved: bool, written: u64, clock: &mut Clock) {
        let inner = self.0.get_or_default();
        if moved || inner.stalled.is_none() || inner.written != written {
            inner.stalled = Some(clock.now());
            inner.written = written;
        }
    }

    /// Returns the time since which the transport has taken nothing although bytes wait.
    #[inline]
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.0.get()?.stalled
    }

    /// Sets the drain deadline, unless it is set.
    pub(crate) fn drain_until(&mut self, deadline: impl FnOnce() -> Option<Instant>) {
        let inner = self.0.get_or_default();
        if inner.drain_until.is_none() {
            inner.drain_until = deadline();
        }
    }

    /// Moves the drain deadline to `deadline`.
    pub(crate) fn move_drain_deadline(&mut self, deadline: Option<Instant>) {
        self.0.get_or_default().drain_until = deadline;
    }

    /// Returns the drain deadline, if it is set.
    #[inline]
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        self.0.get()?.drain_until
    }

    /// Ready once `deadline` has passed. Otherwise `cx` will be woken at the deadline or earlier.
    ///
    /// A deadline that is late is ready after the I/O driver was polled, so that input that has
    /// arrived comes first (design.md: Why does a late deadline wait for the I/O driver?).
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let Inner { sleep, waker, .. } = self.0.get_or_default();
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            // A timer whose time has come fires by itself, also that of a late deadline.
            if sleep.deadline() > Instant::now() {
                sleep.as_mut().reset(deadline);
            }
        } else if waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
            && !sleep.is_elapsed()
        {
            return Poll::Pending;
        }
        // Must run without the cooperative budget: at the end of the budget a sleep does not
        // register the waker.
        while Pin::new(&mut unconstrained(sleep.as_mut()))
            .poll(cx)
            .is_ready()
        {
            let Some(waited) = sleep.deadline().checked_duration_since(deadline) else {
                sleep.as_mut().reset(deadline);
                continue;
            };
            let now = Instant::now();
            if waited > LATE || now.saturating_duration_since(deadline) <= LATE {
                return Poll::Ready(());
            }
            // tokio polls the I/O driver before it fires the timer once more.
            sleep.as_mut().reset(now);
        }
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Drops the timer if it has fired, because nothing has a deadline now.
    #[inline]
    pub(crate) fn release_if_fired(&mut self) {
        let sleep = self.0.get().and_then(|inner| inner.sleep.as_ref());
        if sleep.is_some_and(|sleep| sleep.is_elapsed()) {
            self.0.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{task::coop, time::advance};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    /// Returns a task that polls a timer, to see when it is woken.
    fn sleeper() -> task::Spawn<()> {
        task::spawn(())
    }

    fn poll(sleeper: &mut task::Spawn<()>, timer: &mut Timer, deadline: Instant) -> Poll<()> {
        sleeper.enter(|cx, _| timer.poll(cx, deadline))
    }

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_task_that_polled_last_is_woken() {
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
    async fn an_earlier_deadline_resets_the_timer_and_a_later_one_waits_until_it_fires() {
        let (mut timer, now) = (Timer::default(), Instant::now());
        let mut sleeper = sleeper();
        assert_pending!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        advance(TEN).await;
        assert!(sleeper.is_woken(), "not set for the earliest deadline");
        assert_pending!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        assert!(!sleeper.is_woken());
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, now + 2 * TEN));
        // The timer is ready again for every later poll.
        assert_ready!(poll(&mut sleeper, &mut timer, now + TEN));
        assert_pending!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, now + 3 * TEN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_deadline_waits_until_the_drivers_were_polled_once() {
        let (mut timer, deadline) = (Timer::default(), Instant::now() + TEN);
        let mut sleeper = sleeper();
        assert_pending!(poll(&mut sleeper, &mut timer, deadline));
        // tokio's timers fire at whole milliseconds.
        let half = Duration::from_micros(500);
        advance(TEN + LATE + half).await;
        assert!(sleeper.is_woken());
        assert_pending!(poll(&mut sleeper, &mut timer, deadline));
        assert_pending!(poll(&mut sleeper, &mut timer, deadline), "another poll");
        assert!(!sleeper.is_woken());
        advance(half).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_without_cooperative_budget_is_woken_in_time() {
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
        assert!(!sleeper.is_woken(), "woken before the deadline");
        advance(TEN).await;
        assert!(sleeper.is_woken());
        assert_ready!(poll(&mut sleeper, &mut timer, deadline));
    }
}
