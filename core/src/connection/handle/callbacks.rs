//! Close callbacks: an ordered list, keyed by pairs of any types that can be hashed.

use std::{
    any::{Any, TypeId},
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    mem,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{CLOSED, ConnectionHandle};
use crate::connection::{Closed, contain};

/// What [`add_close_callback`](super::ConnectionHandle::add_close_callback) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallbackAdded {
    /// The callback is the last one now.
    Appended,
    /// It took the place, and the position, of the callback that had the same pair of keys.
    Replaced,
    /// The connection was closed already: the callback has run, before this call returned.
    RanNow,
}

/// A pair of keys whose types are forgotten but still compared and hashed.
pub(crate) trait Key: Any + Send {
    fn equals(&self, other: &dyn Key) -> bool;

    fn hash_into(&self, hasher: &mut dyn Hasher);

    /// Drops the two keys one after another.
    fn discard(self: Box<Self>);
}

impl<H: Eq + Hash + Any + Send, K: Eq + Hash + Any + Send> Key for (H, K) {
    fn equals(&self, other: &dyn Key) -> bool {
        let other: &dyn Any = other;
        other.downcast_ref() == Some(self)
    }

    fn hash_into(&self, mut hasher: &mut dyn Hasher) {
        TypeId::of::<Self>().hash(&mut hasher);
        self.hash(&mut hasher);
    }

    fn discard(self: Box<Self>) {
        let (handler, key) = *self;
        contain(DROPPING_KEY, || drop(handler));
        contain(DROPPING_KEY, || drop(key));
    }
}

type Callback = Box<dyn FnOnce(&Closed) + Send>;

const DROPPING_KEY: &str = "dropping a close callback's key";

/// A callback and its keys: the user's values, to be dropped outside of any lock.
pub(crate) struct Entry {
    // both are `Some` until the entry runs or is dropped
    keys: Option<Box<dyn Key>>,
    callback: Option<Callback>,
}

impl Entry {
    pub(crate) fn new<H: Eq + Hash + Any + Send, K: Eq + Hash + Any + Send>(
        keys: (H, K),
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> Self {
        Self {
            keys: Some(Box::new(keys)),
            callback: Some(Box::new(callback)),
        }
    }

    pub(crate) fn keys(&self) -> &dyn Key {
        match &self.keys {
            Some(keys) => &**keys,
            None => unreachable!("they are there until the entry is dropped"),
        }
    }

    fn equals(&self, keys: &dyn Key) -> bool {
        self.keys.as_ref().is_some_and(|own| own.equals(keys))
    }

    pub(crate) fn run(mut self, closed: &Closed) {
        if let Some(callback) = self.callback.take() {
            contain("a close callback", || callback(closed));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.take() {
            keys.discard();
        }
        let callback = self.callback.take();
        contain("dropping a close callback", || drop(callback));
    }
}

/// Length up to which a list is searched. A longer list has an index, which takes more memory.
const FEW: usize = 16;

/// The callbacks of one connection, in the order added.
///
/// The user's comparisons and hashes run in [`prepare`](Self::prepare) and [`find`](Self::find)
/// alone. A panic in one leaves the list as it was.
pub(crate) enum Callbacks {
    Few(Vec<Entry>),
    Many(Box<Many>),
}

/// Position of a pair of keys in the list.
pub(crate) struct Found {
    /// `None` if no entry has these keys.
    position: Option<u64>,
    /// Hash of the keys, in a list with an index.
    hash: u64,
}

impl Callbacks {
    /// Prepares for one more entry: makes the index of a list that is too long to be searched.
    pub(crate) fn prepare(&mut self) {
        let Self::Few(entries) = self else {
            return;
        };
        if entries.len() < FEW {
            return;
        }
        let hasher = RandomState::new();
        let hashes = entries.iter().map(|entry| hash(&hasher, entry.keys()));
        let hashes: Vec<_> = hashes.collect();
        let mut many = Box::new(Many::new(hasher));
        for (entry, hash) in mem::take(entries).into_iter().zip(hashes) {
            many.push(entry, hash);
        }
        *self = Self::Many(many);
    }

    /// Finds the entry with these keys.
    pub(crate) fn find(&self, keys: &dyn Key) -> Found {
        match self {
            Self::Few(entries) => Found {
                position: (0..)
                    .zip(entries)
                    .find(|(_, entry)| entry.equals(keys))
                    .map(|(position, _)| position),
                hash: 0,
            },
            Self::Many(many) => {
                let hash = hash(&many.hasher, keys);
                let position = many.find(hash, keys);
                Found { position, hash }
            }
        }
    }

    /// Replaces the entry that was `found` by `entry` and returns it, or adds `entry` at the end.
    pub(crate) fn put(&mut self, found: &Found, entry: Entry) -> Option<Entry> {
        let at = found.position.and_then(|at| self.entry(at));
        if let Some(old) = at {
            return Some(mem::replace(old, entry));
        }
        match self {
            Self::Few(entries) => entries.push(entry),
            Self::Many(many) => many.push(entry, found.hash),
        }
        None
    }

    fn entry(&mut self, position: u64) -> Option<&mut Entry> {
        match self {
            Self::Few(entries) => entries.get_mut(usize::try_from(position).ok()?),
            Self::Many(many) => Some(&mut many.slot(position)?.entry),
        }
    }

    /// Removes the entry that was `found`.
    pub(crate) fn remove(&mut self, found: &Found) -> Option<Entry> {
        let position = found.position?;
        match self {
            Self::Few(entries) => Some(entries.remove(usize::try_from(position).ok()?)),
            Self::Many(many) => many.remove(position),
        }
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        match self {
            Self::Few(entries) => (!entries.is_empty()).then(|| entries.remove(0)),
            Self::Many(many) => many.remove(many.first),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(entries) => entries.len(),
            Self::Many(many) => many.len,
        }
    }
}

impl Default for Callbacks {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

fn hash(hasher: &RandomState, keys: &dyn Key) -> u64 {
    let mut hasher = hasher.build_hasher();
    keys.hash_into(&mut hasher);
    hasher.finish()
}

/// Callbacks with an index: each operation takes constant time.
///
/// Entries are numbered as they are added. A removed entry leaves a gap. The gaps are removed once
/// they are the greater part. Hashes are kept, because hashing is the user's code.
pub(crate) struct Many {
    slots: VecDeque<Option<Slot>>,
    /// Number of the first slot, which is not a gap.
    first: u64,
    /// Number of slots that are not gaps.
    len: usize,
    /// By the hash of its keys, the number of the newest entry with that hash.
    index: HashMap<u64, u64>,
    hasher: RandomState,
}

struct Slot {
    entry: Entry,
    hash: u64,
    /// Number of the next older entry with the same hash.
    older: Option<u64>,
}

impl Many {
    fn new(hasher: RandomState) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            len: 0,
            index: HashMap::new(),
            hasher,
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let place = self.place(number)?;
        self.slots.get_mut(place)?.as_mut()
    }

    fn find(&self, hash: u64, keys: &dyn Key) -> Option<u64> {
        let mut next = self.index.get(&hash).copied();
        while let Some(number) = next {
            let slot = self.slots.get(self.place(number)?)?.as_ref()?;
            if slot.entry.equals(keys) {
                return Some(number);
            }
            next = slot.older;
        }
        None
    }

    fn push(&mut self, entry: Entry, hash: u64) {
        let number = self.first + self.slots.len() as u64;
        let older = self.index.insert(hash, number);
        self.slots.push_back(Some(Slot { entry, hash, older }));
        self.len += 1;
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let place = self.place(number)?;
        let Slot { entry, hash, older } = self.slots.get_mut(place)?.take()?;
        self.len -= 1;
        self.unlink(number, hash, older);
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.len() > 2 * self.len + FEW {
            self.close_gaps();
        }
        Some(entry)
    }

    /// Removes the entry `number` from the chain of entries with the same hash.
    fn unlink(&mut self, number: u64, hash: u64, older: Option<u64>) {
        match (self.index.get(&hash).copied(), older) {
            (Some(newest), Some(older)) if newest == number => {
                self.index.insert(hash, older);
            }
            (Some(newest), None) if newest == number => {
                self.index.remove(&hash);
            }
            (mut newer, _) => {
                while let Some(slot) = newer.and_then(|newer| self.slot(newer)) {
                    if slot.older == Some(number) {
                        slot.older = older;
                        return;
                    }
                    newer = slot.older;
                }
            }
        }
    }

    /// Renumbers the entries, and shrinks their memory to their size.
    fn close_gaps(&mut self) {
        let slots = mem::take(&mut self.slots);
        self.slots.reserve(self.len);
        self.index = HashMap::with_capacity(self.len);
        self.len = 0;
        for Slot { entry, hash, .. } in slots.into_iter().flatten() {
            self.push(entry, hash);
        }
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("len", &self.len())
            .finish()
    }
}

impl ConnectionHandle {
    /// Has `callback` called once when the connection has closed, under a pair of keys that can be used to replace or
    /// [remove](Self::remove_close_callback) it.
    ///
    /// Callbacks run in the order added, one after another, once the transport is gone, at the end of the connection's
    /// task or where its future is dropped; never on a task of their own. So they must not block. They run exactly once
    /// however the connection ends: an error, a panic, an aborted task, a runtime that shuts down. A panic in one is
    /// logged and the next still runs. They may add and remove callbacks: one added by a callback runs after the others.
    ///
    /// The same pair of keys, equal in type and value, replaces in place. After the close the
    /// callback is called at once, before this returns. Comparing, hashing and dropping keys may
    /// use the connection, but a comparison or a hash must not add or remove callbacks.
    ///
    /// Adding, replacing and removing take constant time for any number of callbacks.
    pub fn add_close_callback<H, K>(
        &self,
        handler: H,
        key: K,
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> CallbackAdded
    where
        H: Eq + Hash + Send + 'static,
        K: Eq + Hash + Send + 'static,
    {
        // the user's values are bound outside of the lock, so that they are dropped there, even in a panic
        let entry = Entry::new((handler, key), callback);
        let mut callbacks = self.0.callbacks.lock();
        if self.has(CLOSED) {
            drop(callbacks);
            entry.run(&self.record());
            return CallbackAdded::RanNow;
        }
        callbacks.prepare();
        let found = callbacks.find(entry.keys());
        let replaced = callbacks.put(&found, entry);
        drop(callbacks);
        if replaced.is_some() {
            CallbackAdded::Replaced
        } else {
            CallbackAdded::Appended
        }
    }

    /// Removes the callback under this pair of keys; `false` where there is none (any more).
    pub fn remove_close_callback<H, K>(&self, handler: H, key: K) -> bool
    where
        H: Eq + Hash + Send + 'static,
        K: Eq + Hash + Send + 'static,
    {
        let keys = (handler, key);
        let mut callbacks = self.0.callbacks.lock();
        let found = callbacks.find(&keys);
        let removed = callbacks.remove(&found);
        drop(callbacks);
        removed.is_some()
    }

    /// Calls `callback` once the connection has closed: at once, where it has.
    #[doc(hidden)]
    pub fn once_closed(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        #[derive(PartialEq, Eq, Hash)]
        struct Own;

        if self.is_closed() {
            // without the allocations that a callback takes
            contain("a close callback", || callback(&self.record()));
        } else {
            self.add_close_callback(Own, NEXT.fetch_add(1, Relaxed), callback);
        }
    }
}
