//! State that the sockets of one listener share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::settings::Settings;
use crate::net::udp::stats::Counters;

/// Settings, counters and limits of a listener, shared by its sockets and sessions.
pub(super) struct ListenerShared {
    settings: Settings,
    counters: Arc<Counters>,
    /// Number of sessions, including those that have left their table and have not ended yet.
    sessions: AtomicUsize,
}

impl ListenerShared {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            counters: Arc::default(),
            sessions: AtomicUsize::new(0),
        }
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns the number of peers in the tables.
    pub(super) fn peers(&self) -> usize {
        self.counters.peers.load(Relaxed)
    }

    pub(super) fn peer_added(&self) {
        self.counters.peers.fetch_add(1, Relaxed);
        self.sessions.fetch_add(1, Relaxed);
    }

    pub(super) fn peer_removed(&self) {
        self.counters.peers.fetch_sub(1, Relaxed);
    }

    pub(super) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Returns `true` if the maximum number of peers is reached.
    pub(super) fn is_full(&self) -> bool {
        self.peers() >= self.settings.max_peers
    }

    /// Returns the number of sessions that have left their table and have not ended yet.
    pub(super) fn ending_sessions(&self) -> usize {
        self.sessions.load(Relaxed).saturating_sub(self.peers())
    }
}
