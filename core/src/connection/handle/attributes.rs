//! Attributes: values of the application that are kept with a connection, by type or by key
//! and type.

use std::{any::Any, mem};

use once_cell::race::OnceBox;

use super::{CLOSED, ConnectionHandle};
use crate::{panic::catch_and_log, sync::Mutex};

/// A value with a separate lock, under which it is cloned.
///
/// The user's `Clone` then does not run under the connection's lock, and cannot race with a
/// removal.
struct Slot<A>(Mutex<Option<A>>);

impl<A> Slot<A> {
    fn empty() -> Self {
        Self(Mutex::new(None))
    }

    fn take(&self) -> Option<A> {
        self.0.lock().take()
    }
}

/// A slot whose type is erased.
trait AnySlot: Any + Send + Sync {
    /// Drops the value. A destructor that panics is logged.
    fn clear(&self);
}

impl<A: Any + Send> AnySlot for Slot<A> {
    fn clear(&self) {
        let value = self.take();
        catch_and_log("dropping an attribute", || drop(value));
    }
}

/// The values of one type under keys of one type.
///
/// They are stored as one attribute, under whose lock the keys are compared.
struct Keyed<K, A>(Vec<(K, A)>);

/// Drops the values one by one so that two panicking destructors do not abort the process.
impl<K, A> Drop for Keyed<K, A> {
    fn drop(&mut self) {
        for (key, value) in self.0.drain(..) {
            catch_and_log("dropping an attribute's key", || drop(key));
            catch_and_log("dropping an attribute", || drop(value));
        }
    }
}

impl<K: Eq, A> Keyed<K, A> {
    fn position(&self, key: &K) -> Option<usize> {
        self.0.iter().position(|(other, _)| other == key)
    }
}

// keys and values are dropped outside the lock because they are the user's
impl<K: Eq, A> Slot<Keyed<K, A>> {
    fn insert_at(&self, handle: &ConnectionHandle, key: K, value: A) -> Option<A> {
        let mut keyed = self.0.lock();
        if handle.has(CLOSED) {
            drop(keyed);
            return None;
        }
        let keyed = keyed.get_or_insert_with(|| Keyed(Vec::new()));
        match keyed.position(&key) {
            Some(at) => Some(mem::replace(&mut keyed.0[at].1, value)),
            None => {
                keyed.0.push((key, value));
                None
            }
        }
    }

    fn get_at(&self, key: &K) -> Option<A>
    where
        A: Clone,
    {
        let keyed = self.0.lock();
        let keyed = keyed.as_ref()?;
        Some(keyed.0[keyed.position(key)?].1.clone())
    }

    fn remove_at(&self, key: &K) -> Option<(K, A)> {
        let mut keyed = self.0.lock();
        let keyed = keyed.as_mut()?;
        let at = keyed.position(key)?;
        Some(keyed.0.swap_remove(at))
    }
}

/// At most one slot for each type, in the order in which the types were first inserted.
///
/// A connection has a handful of attributes, so a list is the smallest and fastest map. Slots
/// are only added, under the connection's lock, and freed with the handle. So they are found
/// without a lock, and a read locks its slot alone (design.md: Why are attributes kept by
/// type?).
#[derive(Default)]
pub(super) struct Attributes(OnceBox<Node>);

struct Node {
    slot: Box<dyn AnySlot>,
    next: Attributes,
}

impl Attributes {
    #[inline]
    fn find<A: Any>(&self) -> Option<&Slot<A>> {
        self.nodes().find_map(|node| {
            let slot: &dyn Any = &*node.slot;
            slot.downcast_ref()
        })
    }

    #[inline]
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let node = rest.0.get()?;
            rest = &node.next;
            Some(node)
        })
    }

    /// Returns the slot of a type, and adds it if there is none. Called under the connection's
    /// lock.
    fn find_or_add<A: Any + Send>(&self) -> &Slot<A> {
        let mut rest = self;
        loop {
            let node = rest.0.get_or_init(|| {
                let slot = Box::new(Slot::<A>::empty());
                let next = Self::default();
                Box::new(Node { slot, next })
            });
            let slot: &dyn Any = &*node.slot;
            match slot.downcast_ref() {
                Some(slot) => return slot,
                None => rest = &node.next,
            }
        }
    }

    /// Drops all values. A destructor that panics does not prevent the others.
    ///
    /// No value is stored later, because `CLOSED` is set: a slot that is being added was added
    /// before, under the connection's lock, and a value is stored under the lock of its slot.
    pub(super) fn clear(&self) {
        self.nodes().for_each(|node| node.slot.clear());
    }
}

impl ConnectionHandle {
    /// Returns the slot of a type, or `None` if the connection is closed.
    fn slot<A: Any + Send>(&self) -> Option<&Slot<A>> {
        let attributes = &self.0.attributes;
        attributes.find().or_else(|| {
            let _locked = self.0.locked.lock();
            (!self.has(CLOSED)).then(|| attributes.find_or_add())
        })
    }

    /// Stores `value` until the connection closes, and returns the earlier value of the same type.
    /// After the close nothing is stored: `value` is dropped.
    ///
    /// An attribute may hold a clone of the [`Session`](crate::Session): the close breaks the
    /// cycle.
    #[doc(alias("extension", "attribute", "state"))]
    pub fn insert<A: Any + Send + Sync>(&self, value: A) -> Option<A> {
        let mut slot = self.slot::<A>()?.0.lock();
        if self.has(CLOSED) {
            drop(slot); // the user's value is dropped outside of the lock
            return None;
        }
        slot.replace(value)
    }

    /// Returns a clone of the attribute of type `A`. Its `Clone` implementation may use the
    /// connection except for the attribute of this type.
    #[must_use]
    #[inline]
    pub fn get<A: Any + Send + Sync + Clone>(&self) -> Option<A> {
        self.0.attributes.find::<A>()?.0.lock().clone()
    }

    /// Removes and returns the attribute of type `A`.
    pub fn remove<A: Any + Send + Sync>(&self) -> Option<A> {
        self.0.attributes.find::<A>()?.take()
    }

    /// Stores `value` under `key` until the connection closes, and returns the earlier value of
    /// the same type under an equal key.
    ///
    /// For values of which a connection has several, or whose names are known only at run time.
    /// Values of other types under the same key and the value stored with
    /// [`insert`](Self::insert), are not affected. After the close nothing is stored: `key` and
    /// `value` are dropped.
    ///
    /// Comparing and dropping keys may use the connection except for the values under keys of the
    /// same type.
    ///
    /// ```
    /// use getty_core::Connection;
    ///
    /// let connection = Connection::new("any transport");
    /// let handle = connection.handle();
    /// handle.insert_at("visits", 1_u32);
    /// handle.insert_at("errors", 0_u32);
    /// assert_eq!(handle.insert_at("visits", 2_u32), Some(1));
    /// assert_eq!(handle.get_at::<u32>(&"visits"), Some(2));
    /// assert_eq!(handle.remove_at::<u32>(&"errors"), Some(0));
    /// ```
    pub fn insert_at<A: Any + Send + Sync>(
        &self,
        key: impl Eq + Any + Send + Sync,
        value: A,
    ) -> Option<A> {
        self.slot()?.insert_at(self, key, value)
    }

    /// Returns a clone of the value of type `A` under `key`. Its `Clone` implementation may use
    /// the connection except for the values under keys of the same type.
    #[must_use]
    pub fn get_at<A: Any + Send + Sync + Clone>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        self.0.attributes.find()?.get_at(key)
    }

    /// Removes and returns the value of type `A` under `key`.
    pub fn remove_at<A: Any + Send + Sync>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        let (_key, value) = self.0.attributes.find()?.remove_at(key)?;
        Some(value)
    }
}
