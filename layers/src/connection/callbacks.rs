//! Close callbacks: an ordered list, keyed by pairs of any comparable types.

use std::{any::Any, fmt};

use super::Closed;

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

pub(crate) type Callback = Box<dyn FnOnce(&Closed) + Send>;

/// A pair of keys whose types are forgotten but still compared.
trait Key: Any + Send {
    fn equals(&self, other: &dyn Any) -> bool;
}

impl<K: Eq + Any + Send> Key for K {
    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// What left the list: the user's values, to be dropped outside of any lock.
pub(crate) struct Entry {
    key: Box<dyn Key>,
    pub(crate) callback: Callback,
}

#[derive(Default)]
pub(crate) struct Callbacks(Vec<Entry>);

impl Callbacks {
    /// Gives back the entry that was replaced.
    pub(crate) fn add<K: Eq + Any + Send>(&mut self, key: K, callback: Callback) -> Option<Entry> {
        let at = self.position(&key);
        let entry = Entry {
            key: Box::new(key),
            callback,
        };
        match at {
            Some(at) => Some(std::mem::replace(&mut self.0[at], entry)),
            None => {
                self.0.push(entry);
                None
            }
        }
    }

    pub(crate) fn remove<K: Eq + Any + Send>(&mut self, key: &K) -> Option<Entry> {
        self.position(key).map(|at| self.0.remove(at))
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    fn position(&self, key: &dyn Any) -> Option<usize> {
        self.0.iter().position(|entry| entry.key.equals(key))
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("len", &self.0.len())
            .finish()
    }
}
