//! Values that users hang on a connection, one a type.

use std::{any::Any, sync::Arc};

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

/// At most one value of each type: a handful at the most, so that a list is the smallest and the fastest map. Never runs
/// the values' own code, but when [cleared](Self::clear).
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<Arc<dyn Any + Send + Sync>>);

impl Attributes {
    /// Gives back what was there.
    pub(crate) fn insert<A: Any + Send + Sync>(
        &mut self,
        value: Arc<Slot<A>>,
    ) -> Option<Arc<Slot<A>>> {
        let old = self.remove();
        self.0.push(value);
        old
    }

    pub(crate) fn get<A: Any + Send + Sync>(&self) -> Option<Arc<Slot<A>>> {
        let slot = self.0.iter().find(|slot| slot.is::<Slot<A>>())?;
        Arc::clone(slot).downcast().ok()
    }

    pub(crate) fn remove<A: Any + Send + Sync>(&mut self) -> Option<Arc<Slot<A>>> {
        let at = self.0.iter().position(|slot| slot.is::<Slot<A>>())?;
        self.0.swap_remove(at).downcast().ok()
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
}
