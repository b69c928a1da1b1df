//! The peers of one socket: by address, and by how long they have been silent.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use getty_layers::ConnectionHandle;
use slab::Slab;
use tokio::time::Instant;

use super::peer::Peer;

/// No entry.
const NONE: usize = usize::MAX;

/// Who is there. Addresses are what a peer claims, so they are hashed with a key that it does not know.
#[derive(Default)]
pub(super) struct Table {
    by_address: HashMap<SocketAddr, usize>,
    entries: Slab<Entry>,
    /// Heard once: nothing shows yet that anybody is there.
    once: Silence,
    /// Heard again.
    again: Silence,
}

struct Entry {
    address: SocketAddr,
    peer: Arc<Peer>,
    handle: ConnectionHandle,
    heard: Instant,
    heard_again: bool,
    before: usize,
    after: usize,
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

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The peer at `address`, which was heard again just now.
    pub(super) fn hear(&mut self, address: &SocketAddr, now: Instant) -> Option<&Arc<Peer>> {
        let key = *self.by_address.get(address)?;
        let entry = &mut self.entries[key];
        entry.heard = now;
        if !entry.heard_again || self.again.last != key {
            self.unlink(key);
            self.entries[key].heard_again = true;
            self.link(key);
        }
        Some(&self.entries[key].peer)
    }

    /// Adds a peer; its key.
    pub(super) fn add(
        &mut self,
        address: SocketAddr,
        peer: Arc<Peer>,
        handle: ConnectionHandle,
        now: Instant,
    ) -> usize {
        let key = self.entries.insert(Entry {
            address,
            peer,
            handle,
            heard: now,
            heard_again: false,
            before: NONE,
            after: NONE,
        });
        self.by_address.insert(address, key);
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

    /// Removes a peer that has been silent for so long, if there is one.
    pub(super) fn expire(&mut self, idle: Duration, now: Instant) -> Option<ConnectionHandle> {
        let key = self.longest_silent()?;
        (now.saturating_duration_since(self.entries[key].heard) >= idle).then(|| self.take(key))
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
        self.by_address.remove(&entry.address);
        // after a flood its memory goes back
        if self.by_address.capacity() > 64 && self.by_address.capacity() > self.by_address.len() * 8
        {
            self.by_address.shrink_to(self.by_address.len() * 2);
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
    use getty_layers::Connection;

    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], n))
    }

    fn with(n: u16, now: Instant) -> Table {
        let mut table = Table::default();
        for n in 1..=n {
            let handle = Connection::new(()).handle().clone();
            handle.set_name(n.to_string());
            table.add(address(n), Arc::default(), handle, now);
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
            assert!(table.hear(&address(n), now).is_some());
        }
        assert_eq!(names(|| table.evict()), ["3", "5", "2", "1", "4"]);
        assert!(table.is_empty());
    }

    #[test]
    fn who_was_silent_for_too_long_expires_whether_heard_once_or_often() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut table = with(3, start);
        table.hear(&address(1), start);
        table.hear(&address(2), start + second);
        let now = start + 2 * second;
        assert_eq!(names(|| table.expire(2 * second, now)).len(), 2);
        assert_eq!(table.heard_first(), Some(start + second));
        assert!(table.hear(&address(2), now).is_some());
        assert!(table.hear(&address(1), now).is_none());
    }

    #[test]
    fn peer_whose_place_is_another_s_removes_nobody() {
        let now = Instant::now();
        let mut table = with(1, now);
        let gone = Arc::<Peer>::default();
        assert!(!table.remove(0, &gone));
        assert!(!table.remove(7, &gone));
        let there = Arc::clone(table.hear(&address(1), now).unwrap());
        assert!(table.remove(0, &there));
        assert!(table.is_empty());
    }
}
