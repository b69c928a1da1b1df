//! Close callbacks: an ordered list, keyed by pairs of any comparable types.

use std::{
    any::Any,
    fmt,
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

/// A pair of keys whose types are forgotten but still compared.
trait Key: Any + Send {
    fn equals(&self, other: &dyn Any) -> bool;

    /// Drops the two keys one after another.
    fn discard(self: Box<Self>);
}

impl<H: Eq + Any + Send, K: Eq + Any + Send> Key for (H, K) {
    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
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
    // both are there until the entry runs or is dropped
    keys: Option<Box<dyn Key>>,
    callback: Option<Callback>,
}

impl Entry {
    pub(crate) fn new<H: Eq + Any + Send, K: Eq + Any + Send>(
        keys: (H, K),
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> Self {
        Self {
            keys: Some(Box::new(keys)),
            callback: Some(Box::new(callback)),
        }
    }

    pub(crate) fn keys(&self) -> &dyn Any {
        match &self.keys {
            Some(keys) => &**keys,
            None => unreachable!("they are there until the entry is dropped"),
        }
    }

    fn equals(&self, keys: &dyn Any) -> bool {
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

#[derive(Default)]
pub(crate) struct Callbacks(Vec<Entry>);

impl Callbacks {
    /// Where the entry with these keys is. Compares the user's values, so it may panic, and call back.
    pub(crate) fn position(&self, keys: &dyn Any) -> Option<usize> {
        self.0.iter().position(|entry| entry.equals(keys))
    }

    /// Puts `entry` in the place of the one at `position`, which is given back, or at the end.
    pub(crate) fn put(&mut self, position: Option<usize>, entry: Entry) -> Option<Entry> {
        match position {
            Some(position) => Some(std::mem::replace(&mut self.0[position], entry)),
            None => {
                self.0.push(entry);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, position: usize) -> Entry {
        self.0.remove(position)
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("len", &self.0.len())
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
    /// The same pair of keys, equal in type and value, replaces in place. After the close the callback is called at
    /// once, before this returns. Comparing and dropping keys may use the connection, but a comparison must not add or
    /// remove callbacks.
    pub fn add_close_callback<H, K>(
        &self,
        handler: H,
        key: K,
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> CallbackAdded
    where
        H: Eq + Send + 'static,
        K: Eq + Send + 'static,
    {
        // the user's values are bound outside of the lock, so that they are dropped there, even in a panic
        let entry = Entry::new((handler, key), callback);
        let mut callbacks = self.0.callbacks.lock();
        if self.has(CLOSED) {
            drop(callbacks);
            entry.run(&self.record());
            return CallbackAdded::RanNow;
        }
        let position = callbacks.position(entry.keys());
        let replaced = callbacks.put(position, entry);
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
        H: Eq + Send + 'static,
        K: Eq + Send + 'static,
    {
        let keys = (handler, key);
        let mut callbacks = self.0.callbacks.lock();
        let position = callbacks.position(&keys);
        let removed = position.map(|position| callbacks.remove(position));
        drop(callbacks);
        removed.is_some()
    }

    /// Calls `callback` once the connection has closed: at once, where it has.
    pub(crate) fn once_closed(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        #[derive(PartialEq, Eq)]
        struct Own;

        if self.is_closed() {
            // without the allocations that a callback takes
            contain("a close callback", || callback(&self.record()));
        } else {
            self.add_close_callback(Own, NEXT.fetch_add(1, Relaxed), callback);
        }
    }
}
