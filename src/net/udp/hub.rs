//! What the sockets of one listener share: settings, counts, and the peers that wait to be accepted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use getty_core::Connection;
use tokio::time::Instant;

use super::{peer::UdpPeer, settings::Settings, stats::Counts};

pub(super) struct Hub {
    settings: Settings,
    counts: Arc<Counts>,
    /// Sessions, among them those that are out of their table and have not ended yet.
    sessions: AtomicUsize,
    waiting: Mutex<VecDeque<Waiting>>,
    acceptor: AtomicWaker,
    /// The listener is gone.
    closed: AtomicBool,
}

struct Waiting {
    connection: Connection<UdpPeer>,
    since: Instant,
}

impl Hub {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            counts: Arc::default(),
            sessions: AtomicUsize::new(0),
            waiting: Mutex::default(),
            acceptor: AtomicWaker::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Peers in the tables.
    pub(super) fn peers(&self) -> usize {
        self.counts.peers.load(Relaxed)
    }

    pub(super) fn peer_added(&self) {
        self.counts.peers.fetch_add(1, Relaxed);
        self.sessions.fetch_add(1, Relaxed);
    }

    pub(super) fn peer_removed(&self) {
        self.counts.peers.fetch_sub(1, Relaxed);
    }

    pub(super) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Whether there are as many peers as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.peers() >= self.settings.max_peers
    }

    /// Whether there is a place for another peer to wait in, and for a session that has lost its own to end in.
    pub(super) fn has_room_to_wait(&self) -> bool {
        let ending = self.sessions.load(Relaxed).saturating_sub(self.peers());
        ending < self.settings.backlog && self.lock().len() < self.settings.backlog
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// The listener is gone: those who wait are refused, and no more come.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        // dropped without the lock: the user's callbacks run
        let waiting = std::mem::take(&mut *self.lock());
        drop(waiting);
    }

    /// Lets a new peer wait to be accepted.
    pub(super) fn offer(&self, connection: Connection<UdpPeer>, since: Instant) {
        let mut waiting = self.lock();
        // looked at with the lock held, or a listener that closes meanwhile would miss it
        if self.is_closed() {
            drop(waiting);
            return;
        }
        waiting.push_back(Waiting { connection, since });
        drop(waiting);
        self.acceptor.wake();
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Connection<UdpPeer>> {
        loop {
            let next = self.lock().pop_front();
            match next {
                Some(waiting) if !self.is_late(&waiting, Instant::now()) => {
                    return Poll::Ready(waiting.connection);
                }
                Some(_) => self.counts.unaccepted.add(1),
                None => {
                    self.acceptor.register(cx.waker());
                    if self.lock().is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Drops those that have waited for too long; when the next one will have.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut waiting = self.lock();
            let first = waiting.front()?;
            if !self.is_late(first, now) {
                return first.since.checked_add(self.settings.accept_timeout);
            }
            let late = waiting.pop_front();
            drop(waiting);
            self.counts.unaccepted.add(1);
            drop(late);
        }
    }

    fn is_late(&self, waiting: &Waiting, now: Instant) -> bool {
        now.saturating_duration_since(waiting.since) >= self.settings.accept_timeout
    }
}
