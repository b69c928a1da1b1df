//! Attributes: values of the application that are kept with a connection, by type or by key
//! and type.

use std::{any::Any, mem, sync::Arc};

use super::{CLOSED, ConnectionHandle};
use crate::{panic::catch_and_log, sync::Mutex};

/// A value with a separate lock, under which it is cloned.
///
/// The user's `Clone` then does not run under the connection's lock, and cannot race with a
/// removal.
pub(crate) struct Slot<A>(Mutex<Option<A>>);

impl<A> Slot<A> {
    pub(crate) fn new(value: A) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(value))))
    }

    pub(crate) fn get(&self) -> Option<A>
    where
        A: Clone,
    {
        self.0.lock().clone()
    }

    pub(crate) fn take(&self) -> Option<A> {
        self.0.lock().take()
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
    fn none() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    fn insert_at(&self, key: K, value: A) -> Option<A> {
        let mut keyed = self.0.lock();
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

/// At most one value for each type. Only [`clear`](Self::clear) runs code of the values.
///
/// A connection has a handful of attributes, so a list is the smallest and fastest map. A
/// boxed slice and not a vector: the capacity would add eight bytes to each handle (design.md:
/// Why are attributes kept by type?).
#[derive(Debug, Default)]
pub(crate) struct Attributes(Box<[Arc<dyn Any + Send + Sync>]>);

impl Attributes {
    /// Inserts a value. Returns the earlier value of this type.
    pub(crate) fn insert<A: Any + Send + Sync>(
        &mut self,
        value: Arc<Slot<A>>,
    ) -> Option<Arc<Slot<A>>> {
        if let Some(at) = self.position::<A>() {
            return mem::replace(&mut self.0[at], value).downcast().ok();
        }
        let mut values = mem::take(&mut self.0).into_vec();
        values.reserve_exact(1);
        values.push(value);
        self.0 = values.into_boxed_slice();
        None
    }

    pub(crate) fn get<A: Any + Send + Sync>(&self) -> Option<Arc<Slot<A>>> {
        let at = self.position::<A>()?;
        Arc::clone(&self.0[at]).downcast().ok()
    }

    pub(crate) fn remove<A: Any + Send + Sync>(&mut self) -> Option<Arc<Slot<A>>> {
        let at = self.position::<A>()?;
        let mut values = mem::take(&mut self.0).into_vec();
        let value = values.swap_remove(at);
        self.0 = values.into_boxed_slice();
        value.downcast().ok()
    }

    fn position<A: Any + Send + Sync>(&self) -> Option<usize> {
        self.0.iter().position(|slot| slot.is::<Slot<A>>())
    }

    /// Drops all values. A destructor that panics does not prevent the others.
    pub(crate) fn clear(self) {
        for value in self.0 {
            catch_and_log("dropping an attribute", || drop(value));
        }
    }
}

impl ConnectionHandle {
    /// Stores `value` until the connection closes, and returns the earlier value of the same type.
    /// After the close nothing is stored: `value` is dropped.
    ///
    /// An attribute may hold a clone of the [`Session`](crate::Session): the close breaks the
    /// cycle.
    #[doc(alias("extension", "attribute", "state"))]
    pub fn insert<A: Any + Send + Sync>(&self, value: A) -> Option<A> {
        let slot = Slot::new(value);
        let mut locked = self.0.locked.lock();
        if self.has(CLOSED) {
            drop(locked); // the user's value is dropped outside of the lock
            return None;
        }
        let old = locked.attributes.insert(slot);
        drop(locked);
        old?.take()
    }

    /// Returns a clone of the attribute of type `A`. Its `Clone` implementation may use the
    /// connection except for the attribute of this type.
    #[must_use]
    pub fn get<A: Any + Send + Sync + Clone>(&self) -> Option<A> {
        let slot = self.0.locked.lock().attributes.get::<A>()?;
        slot.get()
    }

    /// Removes and returns the attribute of type `A`.
    pub fn remove<A: Any + Send + Sync>(&self) -> Option<A> {
        let slot = self.0.locked.lock().attributes.remove::<A>()?;
        slot.take()
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
        let none = Slot::none();
        let mut locked = self.0.locked.lock();
        if self.has(CLOSED) {
            drop(locked); // the user's values are dropped outside of the lock
            return None;
        }
        let slot = locked.attributes.get().unwrap_or_else(|| {
            locked.attributes.insert(Arc::clone(&none));
            none
        });
        drop(locked);
        slot.insert_at(key, value)
    }

    /// Returns a clone of the value of type `A` under `key`. Its `Clone` implementation may use
    /// the connection except for the values under keys of the same type.
    #[must_use]
    pub fn get_at<A: Any + Send + Sync + Clone>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        let slot = self.0.locked.lock().attributes.get();
        slot?.get_at(key)
    }

    /// Removes and returns the value of type `A` under `key`.
    pub fn remove_at<A: Any + Send + Sync>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        let slot = self.0.locked.lock().attributes.get();
        let (_key, value) = slot?.remove_at(key)?;
        Some(value)
    }
}
