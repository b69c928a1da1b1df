//! Subscriptions of a bus over a network, which outlive its connections.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{Subject, lock};

/// Longest random delay before the first attempt to connect again.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// Longest random delay before any later attempt.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Maximum number of subscriptions that are changed together.
pub(super) const BATCH: usize = 512;

/// Returns the delay before the attempt to connect with this number, from 0, after a connection
/// was lost. It is random, so that many nodes do not return at once.
pub(super) fn reconnect_delay(attempt: u32) -> Duration {
    let longest = FIRST_DELAY
        .saturating_mul(1 << attempt.min(8))
        .min(MAX_DELAY);
    longest.mul_f64(fastrand::f64())
}

/// Subjects that the cluster wants, and their changes since the bus last took them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    changed: Notify,
    /// Number of the last change that is in effect on the server.
    confirmed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Subjects that are wanted, with the numbers of their subscriptions.
    subjects: HashMap<Subject, u64>,
    /// Subjects that were added since the bus last took changes. Some may not be wanted any
    /// more.
    added: VecDeque<Subject>,
    /// Subjects that were removed since then, with their former numbers.
    removed: HashMap<Subject, u64>,
    /// Number of the last change.
    number: u64,
    /// `true` from the restart for a connection until it ends. Changes are listed only then.
    is_live: bool,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) subject: Subject,
    /// Number of the change that has added it. No other subscription has it.
    pub(super) number: u64,
}

/// Some changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Subjects to subscribe to.
    pub(super) add: Vec<Subscription>,
    /// Subjects to unsubscribe from.
    pub(super) remove: Vec<Subscription>,
    /// Number of the last change, or `None` if more changes are left.
    pub(super) number: Option<u64>,
}

impl Wanted {
    pub(super) fn change(&self, changes: impl IntoIterator<Item = (Subject, bool)>) {
        let mut state = lock(&self.state);
        let before = state.number;
        for (subject, wanted) in changes {
            let next = state.number + 1;
            if wanted {
                if state.subjects.contains_key(&subject) {
                    continue;
                }
                // The bus may not have ended the subscription yet.
                let number = state.removed.remove(&subject).unwrap_or(next);
                if state.is_live {
                    state.added.push_back(subject.clone());
                }
                state.subjects.insert(subject, number);
            } else if let Some(number) = state.subjects.remove(&subject) {
                if state.is_live {
                    state.removed.insert(subject, number);
                }
            } else {
                continue;
            }
            state.number = next;
        }
        if state.number > before {
            self.changed.notify_one();
        }
    }

    /// Asks for a confirmation without a change: that the server has handled what was sent before.
    #[cfg(feature = "nats")]
    pub(super) fn touch(&self) {
        lock(&self.state).number += 1;
        self.changed.notify_one();
    }

    /// Returns all subjects and the number of the last change, for a new connection. It forgets the
    /// changes.
    pub(super) fn restart(&self) -> (Vec<Subscription>, u64) {
        let mut state = lock(&self.state);
        (state.added, state.removed) = Default::default();
        state.is_live = true;
        let all = state.subjects.iter().map(|(subject, number)| Subscription {
            subject: subject.clone(),
            number: *number,
        });
        (all.collect(), state.number)
    }

    /// Records that the connection has ended. The next one gets all subjects.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        (state.added, state.removed) = Default::default();
        state.is_live = false;
    }

    /// Returns some changes.
    pub(super) fn take(&self) -> Batch {
        let mut state = lock(&self.state);
        let State {
            subjects,
            added,
            removed,
            number,
            ..
        } = &mut *state;
        let removals: Vec<_> = removed.keys().take(BATCH).cloned().collect();
        let removals = removals.into_iter().filter_map(|subject| {
            let number = removed.remove(&subject)?;
            Some(Subscription { subject, number })
        });
        let remove: Vec<_> = removals.collect();
        let additions = added.len().min(BATCH - remove.len());
        let additions = added.drain(..additions).filter_map(|subject| {
            let number = *subjects.get(&subject)?;
            Some(Subscription { subject, number })
        });
        let add = additions.collect();
        let is_all = added.is_empty() && removed.is_empty();
        let number = is_all.then_some(*number);
        if is_all {
            // After many changes at once, their memory is not kept.
            added.shrink_to(BATCH);
            removed.shrink_to(BATCH);
        }
        Batch {
            add,
            remove,
            number,
        }
    }

    /// Waits for changes. One task at a time may wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records that the server has all changes up to `number`.
    pub(super) fn confirm(&self, number: u64) {
        self.confirmed.send_if_modified(|confirmed| {
            let is_later = number > *confirmed;
            *confirmed = number.max(*confirmed);
            is_later
        });
    }

    /// Waits until the server has had all changes up to now.
    pub(super) async fn confirmed(&self) {
        let number = lock(&self.state).number;
        let mut confirmed = self.confirmed.subscribe();
        // It fails only if the sender is dropped, and `self` keeps it.
        let _ = confirmed.wait_for(|confirmed| *confirmed >= number).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(n: usize) -> Subject {
        Subject::topic("app", "rooms", n.to_string().as_bytes())
    }

    #[test]
    fn changes_are_taken_once_and_a_new_connection_gets_all() {
        let wanted = Wanted::default();
        assert_eq!(wanted.restart(), (Vec::new(), 0));
        wanted.change((0..600).map(|n| (subject(n), true)));
        let batch = wanted.take();
        assert_eq!((batch.add.len(), batch.remove.len()), (BATCH, 0));
        assert_eq!(batch.number, None);
        // a change that is taken back before the bus took it is still passed on
        wanted.change([(subject(1000), true)]);
        wanted.change([(subject(1000), false), (subject(2000), false)]);
        let batch = wanted.take();
        assert_eq!(batch.add.len(), 600 - BATCH);
        let removed = Subscription {
            subject: subject(1000),
            number: 601,
        };
        assert_eq!((batch.remove, batch.number), (vec![removed], Some(602)));
        assert_eq!(wanted.take().number, Some(602));
        let (subjects, number) = wanted.restart();
        assert_eq!((subjects.len(), number), (600, 602));
        let state = lock(&wanted.state);
        assert!(state.added.capacity() <= BATCH && state.removed.capacity() <= 2 * BATCH);
    }

    #[test]
    fn subscription_that_has_not_ended_keeps_its_number() {
        let wanted = Wanted::default();
        wanted.restart();
        let number = |wanted: &Wanted| wanted.take().add[0].number;
        wanted.change([(subject(1), true)]);
        assert_eq!(number(&wanted), 1);
        wanted.change([(subject(1), false), (subject(1), true)]);
        assert_eq!(number(&wanted), 1);
        wanted.change([(subject(1), false)]);
        assert_eq!(wanted.take().remove[0].number, 1);
        wanted.change([(subject(1), true)]);
        assert_eq!(number(&wanted), 5);
        assert_eq!(wanted.restart().0[0].number, 5);
    }

    #[test]
    fn changes_without_a_connection_are_not_listed() {
        let wanted = Wanted::default();
        let change_often = || {
            for n in 100..10_100 {
                wanted.change([(subject(n), true)]);
                wanted.change([(subject(n), false)]);
            }
            let state = lock(&wanted.state);
            let capacity = (state.added.capacity(), state.removed.capacity());
            assert_eq!(capacity, (0, 0));
        };
        change_often();
        wanted.change((0..3).map(|n| (subject(n), true)));
        let (all, number) = wanted.restart();
        assert_eq!((all.len(), number), (3, 20_003));
        wanted.change([(subject(1), false), (subject(4), true)]);
        wanted.stop();
        change_often();
        wanted.change([(subject(5), true)]);
        let (all, number) = wanted.restart();
        let mut all: Vec<_> = all.into_iter().map(|it| it.subject).collect();
        let mut expected = [0, 2, 4, 5].map(subject);
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!((&all[..], number), (&expected[..], 40_006));
        let none = Batch {
            add: Vec::new(),
            remove: Vec::new(),
            number: Some(number),
        };
        assert_eq!(wanted.take(), none);
    }

    #[tokio::test]
    async fn confirmation_covers_the_changes_before_it() {
        let wanted = Wanted::default();
        wanted.confirmed().await;
        wanted.change([(subject(1), true)]);
        let mut confirmed = Box::pin(wanted.confirmed());
        assert!(futures_util::poll!(&mut confirmed).is_pending());
        wanted.change([(subject(2), true)]);
        wanted.confirm(1);
        confirmed.await;
        assert!(futures_util::poll!(Box::pin(wanted.confirmed())).is_pending());
        wanted.confirm(2);
        wanted.confirm(1);
        wanted.confirmed().await;
    }

    #[test]
    fn delays_are_random_and_bounded() {
        for attempt in 0..100 {
            assert!(reconnect_delay(attempt) <= MAX_DELAY);
            assert!(reconnect_delay(0) <= FIRST_DELAY);
        }
    }
}
