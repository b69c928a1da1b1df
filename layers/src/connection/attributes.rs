//! Values that users hang on a connection, one a type.

use std::any::Any;

/// At most one value of each type. A handful at the most, so a list is the smallest and the fastest map.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<Box<dyn Any + Send + Sync>>);

impl Attributes {
    /// Gives back the value that was there, for the caller to drop outside of any lock.
    pub(crate) fn insert<A: Any + Send + Sync>(&mut self, value: A) -> Option<A> {
        if let Some(old) = self
            .0
            .iter_mut()
            .find_map(|attribute| attribute.downcast_mut())
        {
            return Some(std::mem::replace(old, value));
        }
        self.0.push(Box::new(value));
        None
    }

    pub(crate) fn get<A: Any + Send + Sync>(&self) -> Option<&A> {
        self.0.iter().find_map(|attribute| attribute.downcast_ref())
    }

    pub(crate) fn remove<A: Any + Send + Sync>(&mut self) -> Option<A> {
        let at = self.0.iter().position(|attribute| attribute.is::<A>())?;
        self.0.swap_remove(at).downcast().ok().map(|value| *value)
    }
}
