//! Counters of received datagrams, for listeners and endpoints.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Counters of the datagrams that a listener or endpoint has received, and of its sessions.
///
/// Each received datagram is either in `delivered` or in one of the following counters, up to
/// and including `probes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams put into a session's queue. With [`DropOldest`](super::UdpOverflow::DropOldest),
    /// datagrams that are dropped later are counted here and in `overflowed`.
    pub delivered: u64,
    /// Datagrams dropped because a peer's queue was full.
    pub overflowed: u64,
    /// Datagrams dropped because they exceeded the maximum length.
    pub truncated: u64,
    /// Empty datagrams dropped.
    pub empty: u64,
    /// Datagrams of new peers, dropped because the maximum number of peers or the backlog was
    /// reached.
    pub refused: u64,
    /// Datagrams of new peers that the admit hook dropped or answered, and datagrams from an
    /// address that cannot be answered.
    pub ignored: u64,
    /// Probes dropped or answered.
    pub probes: u64,
    /// Sessions closed to make room for others.
    pub evicted: u64,
    /// Sessions closed because their peer was silent for the idle timeout.
    pub expired: u64,
    /// Sessions closed because they were not accepted in time.
    pub unaccepted: u64,
    /// Datagrams that the operating system refused to send.
    pub unsent: u64,
}

impl fmt::Display for UdpStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            delivered,
            overflowed,
            truncated,
            empty,
            refused,
            ignored,
            probes,
            evicted,
            expired,
            unaccepted,
            unsent,
        } = self;
        write!(
            f,
            "received {received}: delivered {delivered}, overflowed {overflowed}, \
             truncated {truncated}, empty {empty}, refused {refused}, ignored {ignored}, \
             probes {probes}; sessions evicted {evicted}, expired {expired}, \
             unaccepted {unaccepted}; unsent {unsent}"
        )
    }
}

/// A counter that several threads may increment.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters behind [`UdpStats`], shared by the sockets of a listener.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: Counter,
    pub(crate) delivered: Counter,
    pub(crate) overflowed: Counter,
    pub(crate) truncated: Counter,
    pub(crate) empty: Counter,
    pub(crate) refused: Counter,
    pub(crate) ignored: Counter,
    pub(crate) probes: Counter,
    pub(crate) evicted: Counter,
    pub(crate) expired: Counter,
    pub(crate) unaccepted: Counter,
    pub(crate) unsent: Counter,
    /// Number of peers that a listener has now.
    pub(crate) peers: AtomicUsize,
}

/// Access to the counters of a [`UdpListener`](super::UdpListener) or
/// [`UdpEndpoint`](super::UdpEndpoint). Returned by their `monitor`. It stays valid after they
/// are dropped.
#[derive(Clone)]
pub struct UdpMonitor(pub(crate) Arc<Counters>);

impl UdpMonitor {
    /// Returns the current counters.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.0.snapshot()
    }

    /// Returns the number of peers that have a session or wait to be accepted. It is 0 for an
    /// endpoint, which does not track its peers.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.0.peers.load(Relaxed)
    }
}

impl fmt::Debug for UdpMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpMonitor")
            .field("peers", &self.peers())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Counters {
    pub(crate) fn snapshot(&self) -> UdpStats {
        UdpStats {
            received: self.received.get(),
            delivered: self.delivered.get(),
            overflowed: self.overflowed.get(),
            truncated: self.truncated.get(),
            empty: self.empty.get(),
            refused: self.refused.get(),
            ignored: self.ignored.get(),
            probes: self.probes.get(),
            evicted: self.evicted.get(),
            expired: self.expired.get(),
            unaccepted: self.unaccepted.get(),
            unsent: self.unsent.get(),
        }
    }
}
