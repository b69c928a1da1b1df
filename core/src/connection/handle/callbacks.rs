//! Close callbacks: an ordered list, keyed by pairs of any hashable types.

use std::{
    any::{Any, TypeId},
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    mem,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{CLOSED, ConnectionHandle};
use crate::{connection::Closed, panic::catch_and_log};

/// Outcome of [`add_close_callback`](super::ConnectionHandle::add_close_callback).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallbackAdded {
    /// The callback was added at the end of the list.
    Appended,
    /// The callback replaced, at the same position, the one with an equal pair of keys.
    Replaced,
    /// The connection was already closed: the callback ran before the call returned.
    RanNow,
}

/// A type-erased pair of keys, which can be compared and hashed.
pub(crate) trait Key: Any + Send {
    fn equals(&self, other: &dyn Key) -> bool;

    fn hash_into(&self, hasher: &mut dyn Hasher);

    /// Drops the two keys one by one.
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
        catch_and_log(DROPPING_KEY, || drop(handler));
        catch_and_log(DROPPING_KEY, || drop(key));
    }
}

type Callback = Box<dyn FnOnce(&Closed) + Send>;

const DROPPING_KEY: &str = "dropping a close callback's key";

/// A callback and its keys. They are values of the user, which must be dropped outside any
/// lock.
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
            None => unreachable!("keys remain until the entry is dropped"),
        }
    }

    fn equals(&self, keys: &dyn Key) -> bool {
        self.keys.as_ref().is_some_and(|own| own.equals(keys))
    }

    pub(crate) fn run(mut self, closed: &Closed) {
        if let Some(callback) = self.callback.take() {
            catch_and_log("a close callback", || callback(closed));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.take() {
            keys.discard();
        }
        let callback = self.callback.take();
        catch_and_log("dropping a close callback", || drop(callback));
    }
}

/// Maximum length of a list that is searched. A longer list has an index, which takes more
/// memory.
const MAX_LIST_LEN: usize = 16;

/// The callbacks of one connection, in the order in which they were added.
///
/// The user's comparisons and hashes run in [`prepare`](Self::prepare) and
/// [`find`](Self::find) alone. A panic in one leaves the list unchanged (design.md: Why must
/// the keys of close callbacks be `Hash`?).
pub(crate) enum Callbacks {
    List(Vec<Entry>),
    Indexed(Box<Indexed>),
}

/// Position of a pair of keys in the list.
pub(crate) struct Found {
    /// `None` if no entry has these keys.
    position: Option<u64>,
    /// Hash of the keys, in a list with an index.
    hash: u64,
}

impl Callbacks {
    /// Prepares for one more entry: creates the index of a list that is too long to be searched.
    pub(crate) fn prepare(&mut self) {
        let Self::List(entries) = self else {
            return;
        };
        if entries.len() < MAX_LIST_LEN {
            return;
        }
        let hasher = RandomState::new();
        let hashes = entries.iter().map(|entry| hash(&hasher, entry.keys()));
        let hashes: Vec<_> = hashes.collect();
        let mut indexed = Box::new(Indexed::new(hasher));
        for (entry, hash) in mem::take(entries).into_iter().zip(hashes) {
            indexed.push(entry, hash);
        }
        *self = Self::Indexed(indexed);
    }

    /// Finds the entry with these keys.
    pub(crate) fn find(&self, keys: &dyn Key) -> Found {
        match self {
            Self::List(entries) => Found {
                position: (0..)
                    .zip(entries)
                    .find(|(_, entry)| entry.equals(keys))
                    .map(|(position, _)| position),
                hash: 0,
            },
            Self::Indexed(indexed) => {
                let hash = hash(&indexed.hasher, keys);
                let position = indexed.find(hash, keys);
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
            Self::List(entries) => entries.push(entry),
            Self::Indexed(indexed) => indexed.push(entry, found.hash),
        }
        None
    }

    fn entry(&mut self, position: u64) -> Option<&mut Entry> {
        match self {
            Self::List(entries) => entries.get_mut(usize::try_from(position).ok()?),
            Self::Indexed(indexed) => Some(&mut indexed.slot(position)?.entry),
        }
    }

    /// Removes the entry that was `found`.
    pub(crate) fn remove(&mut self, found: &Found) -> Option<Entry> {
        let position = found.position?;
        match self {
            Self::List(entries) => Some(entries.remove(usize::try_from(position).ok()?)),
            Self::Indexed(indexed) => indexed.remove(position),
        }
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        match self {
            Self::List(entries) => (!entries.is_empty()).then(|| entries.remove(0)),
            Self::Indexed(indexed) => indexed.remove(indexed.first),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::List(entries) => entries.len(),
            Self::Indexed(indexed) => indexed.len,
        }
    }
}

impl Default for Callbacks {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

fn hash(hasher: &RandomState, keys: &dyn Key) -> u64 {
    let mut hasher = hasher.build_hasher();
    keys.hash_into(&mut hasher);
    hasher.finish()
}

/// Callbacks with an index: each operation takes constant time.
///
/// Entries are numbered as they are added. A removed entry leaves a gap. The gaps are removed
/// once they are the greater part. Hashes are stored because hashing is the user's code.
pub(crate) struct Indexed {
    slots: VecDeque<Option<Slot>>,
    /// Number of the first slot, which is not a gap.
    first: u64,
    /// Number of slots that are not gaps.
    len: usize,
    /// Maps the hash of keys to the number of the newest entry with that hash.
    index: HashMap<u64, u64>,
    hasher: RandomState,
}

struct Slot {
    entry: Entry,
    hash: u64,
    /// Number of the next older entry with the same hash.
    older: Option<u64>,
}

impl Indexed {
    fn new(hasher: RandomState) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            len: 0,
            index: HashMap::new(),
            hasher,
        }
    }

    fn index_of(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let index = self.index_of(number)?;
        self.slots.get_mut(index)?.as_mut()
    }

    fn find(&self, hash: u64, keys: &dyn Key) -> Option<u64> {
        let mut next = self.index.get(&hash).copied();
        while let Some(number) = next {
            let slot = self.slots.get(self.index_of(number)?)?.as_ref()?;
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
        let index = self.index_of(number)?;
        let Slot { entry, hash, older } = self.slots.get_mut(index)?.take()?;
        self.len -= 1;
        self.unlink(number, hash, older);
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.len() > 2 * self.len + MAX_LIST_LEN {
            self.remove_gaps();
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
    fn remove_gaps(&mut self) {
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
    /// Adds a callback that is called once, when the connection has closed.
    ///
    /// The pair of keys identifies the callback, to replace or
    /// [remove](Self::remove_close_callback) it. Keys are equal if their types and values are. A
    /// callback with an equal pair is replaced at its position. After the close the callback is
    /// called at once, before this method returns. So do not add one while holding a lock that the
    /// callback takes.
    ///
    /// Callbacks run in the order in which they were added, after the transport is dropped: at the
    /// end of the connection's task, or where its future is dropped. They run in the caller's
    /// task, so they must not block. They run exactly once however the connection ends: by an
    /// error, a panic, an aborted task or a runtime that shuts down (design.md: Why do close
    /// callbacks always run?). A panic in one is logged and the next still runs. Callbacks may add
    /// and remove callbacks. A callback added by another runs after all others.
    ///
    /// Comparing, hashing and dropping keys may use the connection, but a comparison or a hash
    /// must not add or remove callbacks.
    ///
    /// Adding, replacing and removing take constant time for any number of callbacks.
    #[doc(alias("on_close", "on_disconnect"))]
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
        // bound outside the lock so that the user's values are dropped there, even in a panic
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

    /// Removes the callback with this pair of keys. Returns `true` if there was one.
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

    /// Adds a callback that cannot be replaced or removed.
    pub(super) fn add_final_callback(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        #[derive(PartialEq, Eq, Hash)]
        struct Own;

        if self.is_closed() {
            // without the allocations that an entry takes
            catch_and_log("a close callback", || callback(&self.record()));
        } else {
            self.add_close_callback(Own, NEXT.fetch_add(1, Relaxed), callback);
        }
    }
}
