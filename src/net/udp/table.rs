//! The peers of one socket: by flow, and by how long they have been silent.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use getty_core::ConnectionHandle;
use slab::Slab;
use tokio::time::Instant;

use super::peer::Peer;

/// No entry.
const NONE: usize = usize::MAX;

/// Shortest idle timeout. A spared peer is due again only after it.
const SHORTEST: Duration = Duration::from_millis(1);

/// The two ends of a session: the peer's address, and the local address that it sends to.
///
/// A peer that sends to two local addresses has two sessions, as over TCP. Each answers from its
/// own local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) peer: SocketAddr,
    /// `None` where the operating system does not report it.
    pub(super) local: Option<IpAddr>,
}

/// Hashes the addresses and the port in one write, which is cheaper than the derived hash.
impl Hash for Flow {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = self.peer.port().to_ne_bytes();
        match (self.peer.ip(), self.local) {
            (IpAddr::V4(peer), Some(IpAddr::V4(local))) => {
                let mut bytes = [0; 10];
                bytes[..4].copy_from_slice(&peer.octets());
                bytes[4..8].copy_from_slice(&local.octets());
                bytes[8..].copy_from_slice(&port);
                state.write(&bytes);
            }
            (peer, local) => {
                let mut bytes = [0; 34];
                bytes[..16].copy_from_slice(&octets(peer));
                if let Some(local) = local {
                    bytes[16..32].copy_from_slice(&octets(local));
                }
                bytes[32..].copy_from_slice(&port);
                state.write(&bytes);
            }
        }
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Who is there. Addresses are what a peer claims, so they are hashed with a key that it does not know.
#[derive(Default)]
pub(super) struct Table {
    by_flow: HashMap<Flow, usize>,
    entries: Slab<Entry>,
    /// Heard once: nothing shows yet that anybody is there.
    once: Silence,
    /// Heard again.
    again: Silence,
}

struct Entry {
    peer: Arc<Peer>,
    handle: ConnectionHandle,
    /// When the peer was last heard, or spared.
    heard: Instant,
    heard_again: bool,
    grace: Grace,
    before: usize,
    after: usize,
}

/// Rule by which a silent peer is spared when its idle timeout has passed. Reset when the peer is
/// heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// Only if the expiry runs late.
    Due,
    /// Its session was busy at the last expiry. The peer has a whole timeout from its answer.
    Owed,
    /// It was spared once in this silence.
    Given,
}

/// A list through the entries, from the longest silent to the one heard last.
struct Silence {
    first: usize,
    last: usize,
}

impl Default for Silence {
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

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the peer of `flow`, which was heard again just now.
    pub(super) fn hear(&mut self, flow: &Flow, now: Instant) -> Option<&Arc<Peer>> {
        let key = *self.by_flow.get(flow)?;
        let entry = &mut self.entries[key];
        entry.heard = now;
        entry.grace = Grace::Due;
        if !entry.heard_again || self.again.last != key {
            self.unlink(key);
            self.entries[key].heard_again = true;
            self.link(key);
        }
        Some(&self.entries[key].peer)
    }

    /// Adds a peer; its key.
    pub(super) fn add(&mut self, peer: Arc<Peer>, handle: ConnectionHandle, now: Instant) -> usize {
        let flow = *peer.flow();
        let key = self.entries.insert(Entry {
            peer,
            handle,
            heard: now,
            heard_again: false,
            grace: Grace::Due,
            before: NONE,
            after: NONE,
        });
        self.by_flow.insert(flow, key);
        self.link(key);
        key
    }

    /// Removes `peer`, if it is there under this key: its place may be another's by now.
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

    /// Removes the peer that has been silent longest, of those heard once if there are any.
    pub(super) fn evict(&mut self) -> Option<ConnectionHandle> {
        let key = [self.once.first, self.again.first]
            .into_iter()
            .find(|key| *key != NONE)?;
        Some(self.take(key))
    }

    /// Removes a peer that has been silent for `idle`, if there is one.
    ///
    /// A peer is spared while its session is busy, and for one timeout after that. If the expiry
    /// runs `late`, the thread was blocked: each silent peer is spared once, because it may wait
    /// for an answer that could not leave (design.md: When is a peer idle whose handler blocks the
    /// thread?).
    pub(super) fn expire(
        &mut self,
        idle: Duration,
        now: Instant,
        late: bool,
    ) -> Option<ConnectionHandle> {
        let idle = idle.max(SHORTEST);
        loop {
            let key = self.longest_silent()?;
            let entry = &mut self.entries[key];
            if now.saturating_duration_since(entry.heard) < idle {
                return None;
            }
            entry.grace = if entry.is_busy() {
                Grace::Owed
            } else if entry.grace == Grace::Owed || (late && entry.grace == Grace::Due) {
                Grace::Given
            } else {
                return Some(self.take(key));
            };
            entry.heard = now;
            self.unlink(key);
            self.link(key);
        }
    }

    /// When the peer that has been silent longest was last heard.
    pub(super) fn heard_first(&self) -> Option<Instant> {
        self.longest_silent().map(|key| self.entries[key].heard)
    }

    fn longest_silent(&self) -> Option<usize> {
        [self.once.first, self.again.first]
            .into_iter()
            .filter(|key| *key != NONE)
            .min_by_key(|key| self.entries[*key].heard)
    }

    fn take(&mut self, key: usize) -> ConnectionHandle {
        self.unlink(key);
        let entry = self.entries.remove(key);
        self.by_flow.remove(entry.peer.flow());
        // after a flood its memory goes back
        if self.by_flow.capacity() > 64 && self.by_flow.capacity() > self.by_flow.len() * 8 {
            self.by_flow.shrink_to(self.by_flow.len() * 2);
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        entry.handle
    }

    fn list(&mut self, again: bool) -> &mut Silence {
        if again {
            &mut self.again
        } else {
            &mut self.once
        }
    }

    fn unlink(&mut self, key: usize) {
        let entry = &self.entries[key];
        let (before, after, again) = (entry.before, entry.after, entry.heard_again);
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
        let again = self.entries[key].heard_again;
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
    use getty_core::Connection;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn flow(n: u16) -> Flow {
        Flow {
            peer: SocketAddr::from(([127, 0, 0, 1], n)),
            local: None,
        }
    }

    fn with(n: u16, now: Instant) -> Table {
        let mut table = Table::default();
        for n in 1..=n {
            let connection = Connection::new(());
            let handle = connection.handle().clone();
            // dropped it would close
            std::mem::forget(connection);
            handle.set_name(n.to_string());
            let peer = Arc::new(Peer::new(flow(n)));
            peer.rest();
            table.add(peer, handle, now);
        }
        table
    }

    fn names(mut evict: impl FnMut() -> Option<ConnectionHandle>) -> Vec<String> {
        std::iter::from_fn(|| evict().map(|handle| handle.name().to_string())).collect()
    }

    #[test]
    fn those_heard_once_go_first_and_then_the_longest_silent() {
        let now = Instant::now();
        let mut table = with(5, now);
        for n in [2, 4, 2, 1, 4] {
            assert!(table.hear(&flow(n), now).is_some());
        }
        assert_eq!(names(|| table.evict()), ["3", "5", "2", "1", "4"]);
        assert!(table.is_empty());
    }

    #[test]
    fn who_was_silent_for_too_long_expires_whether_heard_once_or_often() {
        let start = Instant::now();
        let mut table = with(3, start);
        table.hear(&flow(1), start);
        table.hear(&flow(2), start + SECOND);
        let now = start + 2 * SECOND;
        assert_eq!(names(|| table.expire(2 * SECOND, now, false)).len(), 2);
        assert_eq!(table.heard_first(), Some(start + SECOND));
        assert!(table.hear(&flow(2), now).is_some());
        assert!(table.hear(&flow(1), now).is_none());
    }

    #[test]
    fn late_expiry_spares_each_silence_once() {
        let start = Instant::now();
        let mut table = with(2, start);
        let at = |seconds| start + seconds * SECOND;
        assert!(table.expire(SECOND, at(3), true).is_none());
        assert_eq!(table.heard_first(), Some(at(3)));
        assert!(table.hear(&flow(2), at(3)).is_some());
        assert_eq!(names(|| table.expire(SECOND, at(5), true)), ["1"]);
        assert_eq!(names(|| table.expire(SECOND, at(6), true)), ["2"]);
    }

    #[test]
    fn busy_session_is_spared_and_its_peer_has_a_whole_timeout_after_that() {
        let start = Instant::now();
        let mut table = with(1, start);
        let at = |seconds| start + seconds * SECOND;
        let peer = Arc::clone(table.hear(&flow(1), start).unwrap());
        peer.wake();
        for seconds in 1..10 {
            assert!(table.expire(SECOND, at(seconds), false).is_none());
        }
        peer.rest();
        assert!(table.expire(SECOND, at(10), false).is_none());
        assert_eq!(names(|| table.expire(SECOND, at(11), false)), ["1"]);
    }

    #[test]
    fn flows_to_different_local_addresses_are_different_peers() {
        let now = Instant::now();
        let mut table = Table::default();
        let flows = [None, Some([127, 0, 0, 1]), Some([127, 0, 0, 2])].map(|local| Flow {
            local: local.map(IpAddr::from),
            ..flow(1)
        });
        for flow in flows {
            assert!(table.hear(&flow, now).is_none());
            table.add(
                Arc::new(Peer::new(flow)),
                Connection::new(()).handle().clone(),
                now,
            );
        }
        for flow in flows {
            assert_eq!(table.hear(&flow, now).unwrap().flow(), &flow);
        }
    }

    #[test]
    fn peer_whose_place_is_another_s_removes_nobody() {
        let now = Instant::now();
        let mut table = with(1, now);
        let gone = Arc::new(Peer::new(flow(1)));
        assert!(!table.remove(0, &gone));
        assert!(!table.remove(7, &gone));
        let there = Arc::clone(table.hear(&flow(1), now).unwrap());
        assert!(table.remove(0, &there));
        assert!(table.is_empty());
    }
}
