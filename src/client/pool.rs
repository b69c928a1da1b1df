//! Pool of the sessions that a client offers, and the choice among them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

#[cfg(doc)]
use getty_core::ConnectionHandle;
use getty_core::{
    Session,
    hooks::Contained,
    sync::{Mutex, MutexGuard},
};

/// Choice of the session that a client returns. Sessions of equal load are picked in turn.
pub struct Pick<Out>(Option<Load<Out>>);

type Load<Out> = Arc<dyn Fn(&Session<Out>) -> usize + Send + Sync>;

impl<Out> Pick<Out> {
    /// Picks the sessions in turn. This is the default.
    #[must_use]
    pub const fn round_robin() -> Self {
        Self(None)
    }

    /// Picks the session with the fewest messages in flight. These are messages that wait to be
    /// sent, messages in handlers, and requests [without a response](Session::unanswered_requests).
    /// So a session whose peer has stopped answering is not preferred.
    #[must_use]
    pub fn least_in_flight() -> Self
    where
        Out: 'static,
    {
        Self::least(|session: &Session<Out>| {
            session.queued() + session.in_flight() + session.unanswered_requests()
        })
    }

    /// Picks the session for which `load` returns the lowest number, such as the number of calls
    /// without a response.
    #[must_use]
    pub fn least(load: impl Fn(&Session<Out>) -> usize + Send + Sync + 'static) -> Self {
        let load = Contained::new(load);
        Self(Some(Arc::new(move |session| load(session))))
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

/// Sessions that can be picked.
#[derive(Debug)]
pub(super) struct Pool<Out> {
    offered: Mutex<Offered<Out>>,
    /// Number of picks, which determines the first candidate of the next one.
    picks: AtomicUsize,
    pick: Pick<Out>,
}

#[derive(Debug)]
struct Offered<Out> {
    // The list is replaced as a whole, so that no code of the application runs under the lock.
    sessions: Arc<[Session<Out>]>,
    /// No session will be offered any more.
    closed: bool,
}

impl<Out> Pool<Out> {
    pub(super) fn new(pick: Pick<Out>) -> Self {
        Self {
            offered: Mutex::new(Offered {
                sessions: Arc::new([]),
                closed: false,
            }),
            picks: AtomicUsize::new(0),
            pick,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Offered<Out>> {
        self.offered.lock()
    }

    /// Replaces the offered sessions, unless the pool is closed.
    pub(super) fn offer(&self, mut sessions: Arc<[Session<Out>]>) {
        let mut offered = self.lock();
        if !offered.closed {
            std::mem::swap(&mut offered.sessions, &mut sessions);
        }
        drop(offered);
        drop(sessions);
    }

    /// Removes all sessions, and offers none any more.
    pub(super) fn close(&self) {
        let mut offered = self.lock();
        offered.closed = true;
        let old = std::mem::replace(&mut offered.sessions, Arc::new([]));
        drop(offered);
        drop(old);
    }

    /// Returns the usable sessions.
    pub(super) fn sessions(&self) -> Vec<Session<Out>> {
        let sessions = Arc::clone(&self.lock().sessions);
        let usable = sessions.iter().filter(|session| is_usable(session));
        usable.cloned().collect()
    }

    /// Returns the number of abandoned requests of all usable sessions whose responses are
    /// outstanding.
    pub(super) fn abandoned_requests(&self) -> usize {
        let offered = self.lock();
        let usable = offered.sessions.iter().filter(|session| is_usable(session));
        usable.map(|session| session.abandoned_requests()).sum()
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().sessions.iter().any(is_usable)
    }

    /// Returns a usable session.
    pub(super) fn pick(&self) -> Option<Session<Out>> {
        let offered = self.lock();
        let Some(load) = &self.pick.0 else {
            // A call picks a session. This path must cost no more than the lock and a counter.
            return self.in_turn(&offered.sessions).next().cloned();
        };
        let sessions = Arc::clone(&offered.sessions);
        drop(offered);
        self.in_turn(&sessions)
            .min_by_key(|session| load(session))
            .cloned()
    }

    /// Returns the usable sessions, beginning with the next one in turn.
    fn in_turn<'a>(
        &self,
        sessions: &'a [Session<Out>],
    ) -> impl Iterator<Item = &'a Session<Out>> + use<'a, Out> {
        let first = match sessions.len() {
            0 | 1 => 0,
            n => self.picks.fetch_add(1, Relaxed) % n,
        };
        sessions[first..]
            .iter()
            .chain(&sessions[..first])
            .filter(|session| is_usable(session))
    }
}

/// Returns `true` if `session` can still send. A session that this side has
/// [finished](ConnectionHandle::is_finished) receives until its peer ends too, and is then
/// replaced.
fn is_usable<Out>(session: &Session<Out>) -> bool {
    !session.is_closing() && !session.is_finished()
}
