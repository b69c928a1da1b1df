//! Values that users hang on a connection, one a type.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use super::contain;
use crate::sync::Mutex;

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

/// At most one value of each type. Allocates with the first value. Never runs the values' own code, but when
/// [cleared](Self::clear).
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    // boxed because most connections have none, and an empty map is five words
    map: Option<Box<Map>>,
}

type Map = HashMap<TypeId, Arc<dyn Any + Send + Sync>, BuildHasherDefault<TypeIdHasher>>;

impl Attributes {
    /// Gives back what was there.
    pub(crate) fn insert<A: Any + Send + Sync>(
        &mut self,
        value: Arc<Slot<A>>,
    ) -> Option<Arc<Slot<A>>> {
        self.map
            .get_or_insert_default()
            .insert(TypeId::of::<A>(), value)
            .and_then(|old| old.downcast().ok())
    }

    pub(crate) fn get<A: Any + Send + Sync>(&self) -> Option<Arc<Slot<A>>> {
        let slot = self.map.as_ref()?.get(&TypeId::of::<A>())?;
        Arc::clone(slot).downcast().ok()
    }

    pub(crate) fn remove<A: Any + Send + Sync>(&mut self) -> Option<Arc<Slot<A>>> {
        let slot = self.map.as_mut()?.remove(&TypeId::of::<A>())?;
        slot.downcast().ok()
    }

    /// Drops every value, whatever the others' drops do.
    pub(crate) fn clear(self) {
        for value in self.map.into_iter().flat_map(|map| map.into_values()) {
            contain("dropping an attribute", || drop(value));
        }
    }
}

/// A type's id is a hash already.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}
