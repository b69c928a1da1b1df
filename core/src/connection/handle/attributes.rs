//! Values that users hang on a connection, one a type, or one for each key and type.

use std::{any::Any, mem, sync::Arc};

use super::{CLOSED, ConnectionHandle};
use crate::{connection::contain, sync::Mutex};

/// A value with a lock of its own, under which it is cloned: the user's `Clone` then neither runs under the connection's
/// lock nor races with one who takes the value away.
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

/// The values of one type that stand under keys of one type: an attribute like any other, under whose lock the keys are
/// compared.
struct Keyed<K, A>(Vec<(K, A)>);

/// Drops them one after another, so that a destructor that panics does not abort the process.
impl<K, A> Drop for Keyed<K, A> {
    fn drop(&mut self) {
        for (key, value) in self.0.drain(..) {
            contain("dropping an attribute's key", || drop(key));
            contain("dropping an attribute", || drop(value));
        }
    }
}

impl<K: Eq, A> Keyed<K, A> {
    fn position(&self, key: &K) -> Option<usize> {
        self.0.iter().position(|(other, _)| other == key)
    }
}

// keys and values are dropped outside of the lock: they are the user's
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

/// At most one value of each type: a handful at the most, so that a list is the smallest and the fastest map. Never runs
/// the values' own code, but when [cleared](Self::clear).
///
/// Without room to spare, for a vector's capacity would be eight bytes more in each handle.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Box<[Arc<dyn Any + Send + Sync>]>);

impl Attributes {
    /// Gives back what was there.
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

    /// Drops every value, whatever the others' drops do.
    pub(crate) fn clear(self) {
        for value in self.0 {
            contain("dropping an attribute", || drop(value));
        }
    }
}

impl ConnectionHandle {
    /// Keeps `value` with the connection until its close, in the place of an earlier one of the same type, which is
    /// given back. After the close nothing is kept: `value` is dropped.
    ///
    /// An attribute may hold a clone of the [`Session`](crate::Session): the close breaks the cycle.
    pub fn insert<A: Any + Send + Sync>(&self, value: A) -> Option<A> {
        let slot = Slot::new(value);
        let mut rare = self.0.rare.lock();
        if self.has(CLOSED) {
            drop(rare); // the user's value is dropped outside of the lock
            return None;
        }
        let old = rare.attributes.insert(slot);
        drop(rare);
        old?.take()
    }

    /// A clone of the attribute of type `A`. Its `Clone` may use the connection, but for the attribute of this type.
    #[must_use]
    pub fn get<A: Any + Send + Sync + Clone>(&self) -> Option<A> {
        let slot = self.0.rare.lock().attributes.get::<A>()?;
        slot.get()
    }

    /// Takes the attribute of type `A` away.
    pub fn remove<A: Any + Send + Sync>(&self) -> Option<A> {
        let slot = self.0.rare.lock().attributes.remove::<A>()?;
        slot.take()
    }

    /// Keeps `value` with the connection until its close, under `key`: where a type is not enough, because there are
    /// several values of it, or their names are only known when the program runs. An earlier value of the same type
    /// under an equal key is given back; neither values of other types under it nor the one of
    /// [`insert`](Self::insert) are touched. After the close nothing is kept: `key` and `value` are dropped.
    ///
    /// Comparing and dropping keys may use the connection, but for what stands under keys of the same type.
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
        let mut rare = self.0.rare.lock();
        if self.has(CLOSED) {
            drop(rare); // the user's values are dropped outside of the lock
            return None;
        }
        let slot = rare.attributes.get().unwrap_or_else(|| {
            rare.attributes.insert(Arc::clone(&none));
            none
        });
        drop(rare);
        slot.insert_at(key, value)
    }

    /// A clone of the value of type `A` under `key`. Its `Clone` may use the connection, but for what stands under keys
    /// of the same type.
    #[must_use]
    pub fn get_at<A: Any + Send + Sync + Clone>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        let slot = self.0.rare.lock().attributes.get();
        slot?.get_at(key)
    }

    /// Takes the value of type `A` under `key` away.
    pub fn remove_at<A: Any + Send + Sync>(
        &self,
        key: &(impl Eq + Any + Send + Sync),
    ) -> Option<A> {
        let slot = self.0.rare.lock().attributes.get();
        let (_key, value) = slot?.remove_at(key)?;
        Some(value)
    }
}
