//! The sessions that a client offers, and which of them is picked.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use getty_layers::Session;

/// Which of its sessions a client gives out.
///
/// Where several are as good as one another they take turns.
pub struct Pick<Out>(Option<Arc<dyn Fn(&Session<Out>) -> usize + Send + Sync>>);

impl<Out> Pick<Out> {
    /// Each in turn. This is the default.
    #[must_use]
    pub const fn round_robin() -> Self {
        Self(None)
    }

    /// The one with the fewest messages in flight: those that wait to be sent, and those that its handlers work on.
    #[must_use]
    pub fn least_in_flight() -> Self
    where
        Out: 'static,
    {
        Self::least(|session: &Session<Out>| session.queued() + session.in_flight())
    }

    /// The one of which `load` says the least: calls without an answer, say.
    #[must_use]
    pub fn least(load: impl Fn(&Session<Out>) -> usize + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(load)))
    }
}

impl<Out> Default for Pick<Out> {
    fn default() -> Self {
        Self::round_robin()
    }
}

impl<Out> Clone for Pick<Out> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Out> fmt::Debug for Pick<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            None => "Pick::round_robin",
            Some(_) => "Pick::least",
        })
    }
}

/// The sessions that may be picked.
#[derive(Debug)]
pub(super) struct Pool<Out> {
    // replaced as a whole, so that no code of the user's runs under the lock
    offered: Mutex<Arc<[Session<Out>]>>,
    turn: AtomicUsize,
    pick: Pick<Out>,
}

impl<Out> Pool<Out> {
    pub(super) fn new(pick: Pick<Out>) -> Self {
        Self {
            offered: Mutex::new(Arc::new([])),
            turn: AtomicUsize::new(0),
            pick,
        }
    }

    pub(super) fn offer(&self, sessions: Arc<[Session<Out>]>) {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *offered, sessions);
        drop(offered);
        drop(old);
    }

    pub(super) fn sessions(&self) -> Arc<[Session<Out>]> {
        Arc::clone(&self.offered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One that is not closing, if there is one.
    pub(super) fn pick(&self) -> Option<Session<Out>> {
        let sessions = self.sessions();
        let first = match sessions.len() {
            0 => return None,
            1 => 0,
            n => self.turn.fetch_add(1, Relaxed) % n,
        };
        let mut in_turn = sessions[first..]
            .iter()
            .chain(&sessions[..first])
            .filter(|session| !session.is_closing());
        match &self.pick.0 {
            None => in_turn.next(),
            Some(load) => in_turn.min_by_key(|session| load(session)),
        }
        .cloned()
    }
}
