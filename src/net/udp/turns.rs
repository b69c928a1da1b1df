//! How the sessions that a batch is for get their turn: here and now, or by their own tasks.

use std::time::Duration;

use tokio::{
    runtime::{self, Handle},
    time::Instant,
};

use super::peer::Woken;

/// More sessions than this have a turn each on their own task, which other threads can take.
const FEW: usize = 32;
/// The clock is looked at after so many of them.
const GRAIN: usize = 4;
/// Sessions that take longer, together or each on average, are better on other threads, which take some ten microseconds
/// to wake. A session with little to do needs a third of what it may.
const QUICK: Duration = Duration::from_micros(300);
const QUICK_EACH: Duration = Duration::from_micros(20);
/// Whatever takes but this is quick.
const QUICK_ALWAYS: Duration = Duration::from_micros(40);
/// A handler that keeps its thread for so long does not belong here. The operating system may have done that, too, but
/// seldom does.
const BLOCKED: Duration = Duration::from_millis(20);
/// One batch may be slow because the operating system gave the processor to others.
const PARDONED: u32 = 1;
/// For so many batches their own tasks have the turns once it took longer twice, and twice as many if it does again.
const FIRST_PENALTY: u32 = 16;
const LONGEST_PENALTY: u32 = 4096;

/// Sessions have their turn on the reader's task as long as that is quick. To wake a task is to wake another thread of the
/// runtime, too, as soon as two of them are ready, and that costs more than a session's turn.
pub(super) struct Turns {
    runtime: runtime::Id,
    in_place: bool,
    /// How many batches in a row were slow.
    slow: u32,
    /// For how many more batches tasks have the turns.
    penalty: u32,
    next_penalty: u32,
}

impl Turns {
    /// Panics outside of a runtime.
    pub(super) fn new(in_place: bool) -> Self {
        Self {
            runtime: Handle::current().id(),
            in_place,
            slow: 0,
            penalty: 0,
            next_penalty: FIRST_PENALTY,
        }
    }

    /// Lets all of them have their turn. `now` is a moment ago; a later one is returned where the clock was looked at.
    pub(super) fn give(&mut self, woken: &mut Vec<Woken>, now: Instant) -> Instant {
        if woken.is_empty() {
            return now;
        }
        if !self.in_place || woken.len() > FEW || self.penalty > 0 {
            self.penalty = self.penalty.saturating_sub(1);
            woken.drain(..).for_each(Woken::wake);
            return now;
        }
        let quick = quick(woken.len());
        let mut woken = woken.drain(..);
        let mut later = now;
        while woken.len() > 0 && later - now <= quick {
            for each in woken.by_ref().take(GRAIN) {
                each.run(self.runtime);
            }
            later = Instant::now();
        }
        // who waits behind a slow one has waited for long enough
        woken.for_each(Woken::wake);
        self.took(later - now, quick);
        later
    }

    fn took(&mut self, time: Duration, quick: Duration) {
        if time <= quick {
            self.slow = 0;
            self.next_penalty = (self.next_penalty / 2).max(FIRST_PENALTY);
            return;
        }
        self.slow += 1;
        if time > BLOCKED {
            self.next_penalty = LONGEST_PENALTY;
        } else if self.slow <= PARDONED {
            return;
        }
        // the first after the penalty decides
        self.slow = PARDONED;
        self.penalty = self.next_penalty;
        self.next_penalty = (self.next_penalty * 2).min(LONGEST_PENALTY);
    }
}

/// How long so many sessions may take.
fn quick(sessions: usize) -> Duration {
    let each = QUICK_EACH * u32::try_from(sessions).unwrap_or(u32::MAX);
    QUICK.min(QUICK_ALWAYS + each)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn one_slow_batch_is_pardoned_and_two_in_a_row_are_not() {
        let mut turns = Turns::new(true);
        for time in [SLOW, QUICK, SLOW, QUICK] {
            turns.took(time, QUICK);
            assert_eq!(turns.penalty, 0);
        }
        turns.took(SLOW, QUICK);
        turns.took(SLOW, QUICK);
        assert_eq!(turns.penalty, FIRST_PENALTY);
    }

    #[test]
    fn few_sessions_may_take_less_time_than_many() {
        assert_eq!(quick(1), QUICK_ALWAYS + QUICK_EACH);
        assert!(quick(8) < QUICK);
        assert_eq!(quick(FEW), QUICK);
    }

    #[tokio::test]
    async fn batch_that_blocked_is_not_pardoned() {
        let mut turns = Turns::new(true);
        turns.took(2 * BLOCKED, QUICK);
        assert_eq!(turns.penalty, LONGEST_PENALTY);
    }

    #[tokio::test]
    async fn penalty_doubles_while_batches_stay_slow_and_shrinks_again() {
        let mut turns = Turns::new(true);
        for _ in 0..20 {
            turns.took(SLOW, QUICK);
        }
        assert_eq!(turns.penalty, LONGEST_PENALTY);
        for _ in 0..20 {
            turns.took(QUICK, QUICK);
        }
        turns.took(SLOW, QUICK);
        turns.took(SLOW, QUICK);
        assert_eq!(turns.penalty, FIRST_PENALTY);
    }
}
