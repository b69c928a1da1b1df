//! What a listener or endpoint has received, and what became of it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// What has come in on the sockets of a listener or endpoint, and what became of it.
///
/// Each datagram that was received was put into a session's queue or is counted under one of the other names, up to and
/// including `probes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams received.
    pub received: u64,
    /// Put into a session's queue. With [`DropOldest`](super::Overflow::DropOldest) those that are dropped later are
    /// among them, and among `overflowed`.
    pub delivered: u64,
    /// Dropped because a peer's queue was full.
    pub overflowed: u64,
    /// Dropped because they were longer than the setting allows.
    pub truncated: u64,
    /// Of no bytes, and dropped.
    pub empty: u64,
    /// Of new peers, and dropped because there were as many peers as there may be, or as many that wait to be accepted.
    pub refused: u64,
    /// Of new peers, and dropped or answered by the admit hook; or from an address that cannot be answered.
    pub ignored: u64,
    /// Probes, dropped or answered.
    pub probes: u64,
    /// Sessions that made room for others.
    pub evicted: u64,
    /// Sessions that ended because their peer was silent for too long.
    pub expired: u64,
    /// Sessions that were not accepted in time.
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
            "received {received}: delivered {delivered}, overflowed {overflowed}, truncated {truncated}, empty {empty}, \
             refused {refused}, ignored {ignored}, probes {probes}; \
             sessions evicted {evicted}, expired {expired}, unaccepted {unaccepted}; unsent {unsent}"
        )
    }
}

/// A counter that several threads may add to.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) received: Count,
    pub(super) delivered: Count,
    pub(super) overflowed: Count,
    pub(super) truncated: Count,
    pub(super) empty: Count,
    pub(super) refused: Count,
    pub(super) ignored: Count,
    pub(super) probes: Count,
    pub(super) evicted: Count,
    pub(super) expired: Count,
    pub(super) unaccepted: Count,
    pub(super) unsent: Count,
    pub(super) peers: AtomicUsize,
}

/// What a [`UdpListener`](super::UdpListener) or [`UdpEndpoint`](super::UdpEndpoint) has received: made by its
/// `monitor`, and good for as long as anybody keeps it.
#[derive(Clone)]
pub struct UdpMonitor(pub(super) Arc<Counts>);

impl UdpMonitor {
    /// What has come in until now, and what became of it.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.0.snapshot()
    }

    /// How many peers of a listener have a session or wait to be accepted; an endpoint does not know its peers.
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

impl Counts {
    pub(super) fn snapshot(&self) -> UdpStats {
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
