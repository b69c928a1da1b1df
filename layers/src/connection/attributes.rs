//! Values that users hang on a connection, one a type.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

type Value = Box<dyn Any + Send + Sync>;

/// At most one value of each type. Allocates with the first value.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    // boxed because most connections have none, and an empty map is five words
    map: Option<Box<HashMap<TypeId, Value, BuildHasherDefault<TypeIdHasher>>>>,
}

impl Attributes {
    /// Gives back the value that was there, for the caller to drop outside of any lock.
    pub(crate) fn insert<A: Any + Send + Sync>(&mut self, value: A) -> Option<Box<A>> {
        self.map
            .get_or_insert_default()
            .insert(TypeId::of::<A>(), Box::new(value))
            .and_then(|old| old.downcast().ok())
    }

    pub(crate) fn get<A: Any + Send + Sync>(&self) -> Option<&A> {
        self.map.as_ref()?.get(&TypeId::of::<A>())?.downcast_ref()
    }

    pub(crate) fn remove<A: Any + Send + Sync>(&mut self) -> Option<Box<A>> {
        self.map
            .as_mut()?
            .remove(&TypeId::of::<A>())?
            .downcast()
            .ok()
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
