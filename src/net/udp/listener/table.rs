//! The peers of one socket, by flow and by the time that they have been silent.

use std::{collections::HashMap, sync::Arc, time::Duration};

use getty_core::ConnectionHandle;
use slab::Slab;
use tokio::time::Instant;

use super::{flow::Flow, peer::Peer};

/// Key that stands for no entry.
const NONE: usize = usize::MAX;

/// Minimum idle timeout. A spared peer is due again only after it.
const MIN_IDLE: Duration = Duration::from_millis(1);

/// The peers of one socket. Their addresses may be forged, so the map hashes them with a random
/// key.
#[derive(Default)]
pub(super) struct PeerTable {
    by_flow: HashMap<Flow, usize>,
    entries: Slab<Entry>,
    /// Peers that were heard once, whose address may be forged.
    heard_once: SilenceList,
    /// Peers that were heard again.
    heard_again: SilenceList,
    /// The listener has been dropped.
    is_closed: bool,
}

struct Entry {
    peer: Arc<Peer>,
    handle: ConnectionHandle,
    /// Time at which the peer was last heard or spared.
    heard: Instant,
    was_heard_again: bool,
    grace: Grace,
    /// Neighbors in the list of the peer.
    before: usize,
    after: usize,
}

/// Rule by which a silent peer is spared when its idle timeout has passed. It is reset when the
/// peer is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// The peer is spared only if the expiry runs late.
    IfLate,
    /// The session was busy at the last expiry. The peer is spared for a whole timeout after that.
    Owed,
    /// The peer has been spared since it was heard.
    Used,
}

/// A linked list through the entries, from the longest silent peer to the one heard last.
struct SilenceList {
    first: usize,
    last: usize,
}

impl Default for SilenceList {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
        }
    }
}

impl Entry {
    /// Returns `true` if the peer waits for the session and not the session for the peer.
    fn is_busy(&self) -> bool {
        !self.handle.is_closing() && (self.handle.in_flight() > 0 || self.peer.is_busy())
    }
}

impl PeerTable {
    /// Returns `true` if the listener has been dropped.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Records that the listener has been dropped.
    pub(super) const fn close(&mut self) {
        self.is_closed = true;
    }

    /// Returns `true` if the listener has been dropped and there is no peer.
    pub(super) fn is_unused(&self) -> bool {
        self.is_closed && self.entries.is_empty()
    }

    /// Returns the peer of `flow`, which has just been heard again.
    pub(super) fn touch(&mut self, flow: &Flow, now: Instant) -> Option<&Arc<Peer>> {
        let key = *self.by_flow.get(flow)?;
        let entry = &mut self.entries[key];
        entry.heard = now;
        entry.grace = Grace::IfLate;
        if !entry.was_heard_again || self.heard_again.last != key {
            self.unlink(key);
            self.entries[key].was_heard_again = true;
            self.link(key);
        }
        Some(&self.entries[key].peer)
    }

    /// Adds a peer. Returns its key.
    pub(super) fn insert(
        &mut self,
        peer: Arc<Peer>,
        handle: ConnectionHandle,
        now: Instant,
    ) -> usize {
        let flow = *peer.flow();
        let key = self.entries.insert(Entry {
            peer,
            handle,
            heard: now,
            was_heard_again: false,
            grace: Grace::IfLate,
            before: NONE,
            after: NONE,
        });
        self.by_flow.insert(flow, key);
        self.link(key);
        key
    }

    /// Removes `peer` if it still has this key. Another peer may have reused the key.
    pub(super) fn remove(&mut self, key: usize, peer: &Arc<Peer>) -> bool {
        let is_there = self
            .entries
            .get(key)
            .is_some_and(|entry| Arc::ptr_eq(&entry.peer, peer));
        if is_there {
            self.take(key);
        }
        is_there
    }

    /// Removes the longest silent peer, of those that were heard once if there are any (design.md:
    /// Why are new peers refused and not old ones evicted?).
    pub(super) fn evict(&mut self) -> Option<ConnectionHandle> {
        let key = [self.heard_once.first, self.heard_again.first]
            .into_iter()
            .find(|key| *key != NONE)?;
        Some(self.take(key))
    }

    /// Removes a peer that has been silent for `idle`, if there is one.
    ///
    /// A peer is spared while its session is busy, and for one timeout after that. If the expiry
    /// runs `late`, the thread was blocked: each silent peer is spared once because it may wait for
    /// an answer that could not be sent (design.md: When is a peer idle whose handler blocks the
    /// thread?).
    pub(super) fn expire(
        &mut self,
        idle: Duration,
        now: Instant,
        late: bool,
    ) -> Option<ConnectionHandle> {
        let idle = idle.max(MIN_IDLE);
        loop {
            let key = self.longest_silent()?;
            let entry = &mut self.entries[key];
            if now.saturating_duration_since(entry.heard) < idle {
                return None;
            }
            entry.grace = if entry.is_busy() {
                Grace::Owed
            } else if entry.grace == Grace::Owed || (late && entry.grace == Grace::IfLate) {
                Grace::Used
            } else {
                return Some(self.take(key));
            };
            entry.heard = now;
            self.unlink(key);
            self.link(key);
        }
    }

    /// Returns the time at which the longest silent peer was last heard.
    pub(super) fn earliest_heard(&self) -> Option<Instant> {
        self.longest_silent().map(|key| self.entries[key].heard)
    }

    fn longest_silent(&self) -> Option<usize> {
        [self.heard_once.first, self.heard_again.first]
            .into_iter()
            .filter(|key| *key != NONE)
            .min_by_key(|key| self.entries[*key].heard)
    }

    fn take(&mut self, key: usize) -> ConnectionHandle {
        self.unlink(key);
        let entry = self.entries.remove(key);
        self.by_flow.remove(entry.peer.flow());
        // frees memory after a flood
        if self.by_flow.capacity() > 64 && self.by_flow.capacity() > self.by_flow.len() * 8 {
            self.by_flow.shrink_to(self.by_flow.len() * 2);
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        entry.handle
    }

    fn list(&mut self, was_heard_again: bool) -> &mut SilenceList {
        if was_heard_again {
            &mut self.heard_again
        } else {
            &mut self.heard_once
        }
    }

    fn unlink(&mut self, key: usize) {
        let entry = &self.entries[key];
        let (before, after, again) = (entry.before, entry.after, entry.was_heard_again);
        match before {
            NONE => self.list(again).first = after,
            before => self.entries[before].after = after,
        }
        match after {
            NONE => self.list(again).last = before,
            after => self.entries[after].before = before,
        }
    }

    fn link(&mut self, key: usize) {
        let again = self.entries[key].was_heard_again;
        let list = self.list(again);
        let last = std::mem::replace(&mut list.last, key);
        match last {
            NONE => list.first = key,
            last => self.entries[last].after = key,
        }
        let entry = &mut self.entries[key];
        (entry.before, entry.after) = (last, NONE);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use getty_core::Connection;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn flow(n: u16) -> Flow {
        Flow {
            peer: SocketAddr::from(([127, 0, 0, 1], n)),
            local: None,
        }
    }

    fn with(n: u16, now: Instant) -> PeerTable {
        let mut table = PeerTable::default();
        for n in 1..=n {
            let connection = Connection::new(());
            let handle = connection.handle().clone();
            // the drop would close it
            std::mem::forget(connection);
            handle.set_name(n.to_string());
            let peer = Arc::new(Peer::new(flow(n)));
            peer.set_waiting();
            table.insert(peer, handle, now);
        }
        table
    }

    fn names(mut evict: impl FnMut() -> Option<ConnectionHandle>) -> Vec<String> {
        std::iter::from_fn(|| evict().map(|handle| handle.name().to_string())).collect()
    }

    #[test]
    fn peers_heard_once_are_evicted_first_and_then_the_longest_silent() {
        let now = Instant::now();
        let mut table = with(5, now);
        for n in [2, 4, 2, 1, 4] {
            assert!(table.touch(&flow(n), now).is_some());
        }
        assert_eq!(names(|| table.evict()), ["3", "5", "2", "1", "4"]);
        assert!(table.entries.is_empty());
    }

    #[test]
    fn silent_peer_expires_whether_heard_once_or_often() {
        let start = Instant::now();
        let mut table = with(3, start);
        table.touch(&flow(1), start);
        table.touch(&flow(2), start + SECOND);
        let now = start + 2 * SECOND;
        assert_eq!(names(|| table.expire(2 * SECOND, now, false)).len(), 2);
        assert_eq!(table.earliest_heard(), Some(start + SECOND));
        assert!(table.touch(&flow(2), now).is_some());
        assert!(table.touch(&flow(1), now).is_none());
    }

    #[test]
    fn late_expiry_spares_each_silent_peer_once() {
        let start = Instant::now();
        let mut table = with(2, start);
        let at = |seconds| start + seconds * SECOND;
        assert!(table.expire(SECOND, at(3), true).is_none());
        assert_eq!(table.earliest_heard(), Some(at(3)));
        assert!(table.touch(&flow(2), at(3)).is_some());
        assert_eq!(names(|| table.expire(SECOND, at(5), true)), ["1"]);
        assert_eq!(names(|| table.expire(SECOND, at(6), true)), ["2"]);
    }

    #[test]
    fn busy_session_is_spared_and_its_peer_has_a_full_timeout_after_that() {
        let start = Instant::now();
        let mut table = with(1, start);
        let at = |seconds| start + seconds * SECOND;
        let peer = Arc::clone(table.touch(&flow(1), start).unwrap());
        peer.set_busy();
        for seconds in 1..10 {
            assert!(table.expire(SECOND, at(seconds), false).is_none());
        }
        peer.set_waiting();
        assert!(table.expire(SECOND, at(10), false).is_none());
        assert_eq!(names(|| table.expire(SECOND, at(11), false)), ["1"]);
    }

    #[test]
    fn flows_to_different_local_addresses_are_different_peers() {
        let now = Instant::now();
        let mut table = PeerTable::default();
        let flows = [None, Some([127, 0, 0, 1]), Some([127, 0, 0, 2])].map(|local| Flow {
            local: local.map(IpAddr::from),
            ..flow(1)
        });
        for flow in flows {
            assert!(table.touch(&flow, now).is_none());
            table.insert(
                Arc::new(Peer::new(flow)),
                Connection::new(()).handle().clone(),
                now,
            );
        }
        for flow in flows {
            assert_eq!(table.touch(&flow, now).unwrap().flow(), &flow);
        }
    }

    #[test]
    fn peer_whose_key_was_reused_removes_no_other() {
        let now = Instant::now();
        let mut table = with(1, now);
        let gone = Arc::new(Peer::new(flow(1)));
        assert!(!table.remove(0, &gone));
        assert!(!table.remove(7, &gone));
        let there = Arc::clone(table.touch(&flow(1), now).unwrap());
        assert!(table.remove(0, &there));
        assert!(table.entries.is_empty());
    }
}
