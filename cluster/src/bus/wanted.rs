//! Subscriptions of a bus over a network, which outlive its connections.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use tokio::sync::Notify;

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

/// Subjects that the cluster wants, and those that have changed since the bus was told.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    subjects: HashSet<Subject>,
    changes: HashMap<Subject, bool>,
}

impl Wanted {
    pub(super) fn change(&self, changes: &[(Subject, bool)]) {
        let mut state = lock(&self.state);
        for (subject, wanted) in changes {
            let changed = if *wanted {
                state.subjects.insert(subject.clone())
            } else {
                state.subjects.remove(subject)
            };
            if changed {
                state.changes.insert(subject.clone(), *wanted);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Returns all subjects, for a new connection, and forgets the changes.
    pub(super) fn restart(&self) -> Vec<Subject> {
        let mut state = lock(&self.state);
        state.changes = HashMap::new();
        state.subjects.iter().cloned().collect()
    }

    /// Returns some changes: subjects to subscribe to, and to unsubscribe from.
    pub(super) fn take(&self) -> (Vec<Subject>, Vec<Subject>) {
        let mut state = lock(&self.state);
        let batch: Vec<_> = state.changes.keys().take(BATCH).cloned().collect();
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for subject in batch {
            match state.changes.remove(&subject) {
                Some(true) => add.push(subject),
                Some(false) => remove.push(subject),
                None => {}
            }
        }
        (add, remove)
    }

    /// Waits for changes. One task at a time may wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_taken_once_and_a_new_connection_gets_all() {
        let subject = |n: usize| Subject::topic("app", "rooms", n.to_string().as_bytes());
        let wanted = Wanted::default();
        let all: Vec<_> = (0..600).map(|n| (subject(n), true)).collect();
        wanted.change(&all);
        let (add, remove) = wanted.take();
        assert_eq!((add.len(), remove.len()), (BATCH, 0));
        // a change that is taken back before the bus was told is still told
        wanted.change(&[(subject(1000), true)]);
        wanted.change(&[(subject(1000), false), (subject(2000), false)]);
        let (add, remove) = wanted.take();
        assert_eq!((add.len(), remove), (600 - BATCH, vec![subject(1000)]));
        assert_eq!(wanted.take(), (vec![], vec![]));
        assert_eq!(wanted.restart().len(), 600);
    }

    #[test]
    fn delays_are_random_and_bounded() {
        for attempt in 0..100 {
            assert!(reconnect_delay(attempt) <= MAX_DELAY);
            assert!(reconnect_delay(0) <= FIRST_DELAY);
        }
    }
}
