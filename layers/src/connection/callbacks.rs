//! Close callbacks: an ordered list, keyed by pairs of any comparable types.

use std::{any::Any, fmt};

use super::{Closed, contain};

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
}

impl<K: Eq + Any + Send> Key for K {
    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// A callback and its keys: the user's values, to be dropped outside of any lock.
pub(crate) struct Entry {
    keys: Box<dyn Key>,
    callback: Box<dyn FnOnce(&Closed) + Send>,
}

impl Entry {
    pub(crate) fn new<K: Eq + Any + Send>(
        keys: K,
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> Self {
        Self {
            keys: Box::new(keys),
            callback: Box::new(callback),
        }
    }

    pub(crate) fn keys(&self) -> &dyn Any {
        &*self.keys
    }

    pub(crate) fn run(self, closed: &Closed) {
        let Self { keys, callback } = self;
        contain("a close callback", || callback(closed));
        contain("dropping a close callback's key", || drop(keys));
    }
}

#[derive(Default)]
pub(crate) struct Callbacks(Vec<Entry>);

impl Callbacks {
    /// Where the entry with these keys is. Compares the user's values, so it may panic, and call back.
    pub(crate) fn position(&self, keys: &dyn Any) -> Option<usize> {
        self.0.iter().position(|entry| entry.keys.equals(keys))
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
