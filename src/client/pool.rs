//! The sessions that a client offers, and which of them is picked.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

#[cfg(doc)]
use getty_core::ConnectionHandle;
use getty_core::{Session, driver::Contained};

/// Which of its sessions a client gives out.
///
/// Where several are as good as one another they take turns.
pub struct Pick<Out>(Option<Load<Out>>);

type Load<Out> = Arc<dyn Fn(&Session<Out>) -> usize + Send + Sync>;

impl<Out> Pick<Out> {
    /// Each in turn. This is the default.
    #[must_use]
    pub const fn round_robin() -> Self {
        Self(None)
    }

    /// Picks the session with the fewest messages in flight: those that wait to be sent, those that
    /// its handlers work on, and requests [without an answer](Session::unanswered_requests). A
    /// session whose peer has stopped answering is therefore not preferred.
    #[must_use]
    pub fn least_in_flight() -> Self
    where
        Out: 'static,
    {
        Self::least(|session: &Session<Out>| {
            session.queued() + session.in_flight() + session.unanswered_requests()
        })
    }

    /// The one of which `load` says the least: calls without an answer, say.
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

/// The sessions that may be picked.
#[derive(Debug)]
pub(super) struct Pool<Out> {
    offered: Mutex<Offered<Out>>,
    turn: AtomicUsize,
    pick: Pick<Out>,
}

#[derive(Debug)]
struct Offered<Out> {
    // replaced as a whole, so that no code of the user's runs under the lock
    sessions: Arc<[Session<Out>]>,
    /// There will be none any more.
    closed: bool,
}

impl<Out> Pool<Out> {
    pub(super) fn new(pick: Pick<Out>) -> Self {
        Self {
            offered: Mutex::new(Offered {
                sessions: Arc::new([]),
                closed: false,
            }),
            turn: AtomicUsize::new(0),
            pick,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Offered<Out>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers these from now on, unless the pool is closed.
    pub(super) fn offer(&self, mut sessions: Arc<[Session<Out>]>) {
        let mut offered = self.lock();
        if !offered.closed {
            std::mem::swap(&mut offered.sessions, &mut sessions);
        }
        drop(offered);
        drop(sessions);
    }

    /// Offers none from now on.
    pub(super) fn close(&self) {
        let mut offered = self.lock();
        offered.closed = true;
        let old = std::mem::replace(&mut offered.sessions, Arc::new([]));
        drop(offered);
        drop(old);
    }

    /// Those that are usable.
    pub(super) fn sessions(&self) -> Vec<Session<Out>> {
        let sessions = Arc::clone(&self.lock().sessions);
        let usable = sessions.iter().filter(|session| is_usable(session));
        usable.cloned().collect()
    }

    /// Returns the number of requests of all usable sessions that were given up and whose answers
    /// are outstanding.
    pub(super) fn given_up_requests(&self) -> usize {
        let offered = self.lock();
        let usable = offered.sessions.iter().filter(|session| is_usable(session));
        usable.map(|session| session.given_up_requests()).sum()
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().sessions.iter().any(is_usable)
    }

    /// One that is usable, if there is one.
    pub(super) fn pick(&self) -> Option<Session<Out>> {
        let offered = self.lock();
        let Some(load) = &self.pick.0 else {
            // calls are made one a pick: no more than the lock and a count
            return self.in_turn(&offered.sessions).next().cloned();
        };
        let sessions = Arc::clone(&offered.sessions);
        drop(offered);
        self.in_turn(&sessions)
            .min_by_key(|session| load(session))
            .cloned()
    }

    /// Those that are usable, beginning with the one whose turn it is.
    fn in_turn<'a>(
        &self,
        sessions: &'a [Session<Out>],
    ) -> impl Iterator<Item = &'a Session<Out>> + use<'a, Out> {
        let first = match sessions.len() {
            0 | 1 => 0,
            n => self.turn.fetch_add(1, Relaxed) % n,
        };
        sessions[first..]
            .iter()
            .chain(&sessions[..first])
            .filter(|session| is_usable(session))
    }
}

/// Whether something can be sent by it still. One that our side has [finished](ConnectionHandle::is_finished) goes on
/// receiving until its peer has ended too, and is replaced then.
fn is_usable<Out>(session: &Session<Out>) -> bool {
    !session.is_closing() && !session.is_finished()
}
